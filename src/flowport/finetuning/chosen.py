"""What the pilot chose, as objects: the method, and the class of its adapter."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flowport.finetuning.adapter import Adapter, ControlAdapter, FullAdapter, LowRankAdapter, ValueAdapter
from flowport.finetuning.method import (
    AdjointMatching,
    FineTuningMethod,
    PathWeighted,
    PolicyGradient,
    ValueMatching,
)
from flowport.finetuning.pilot import Choice
from flowport.sampling.grid import UniformGrid

METHODS: Mapping[str, Callable[..., FineTuningMethod]] = {
    "path_weighted_adjoint": PathWeighted,
    "path_weighted": partial(PathWeighted, late=None),
    "adjoint_matching": AdjointMatching,
    "value_matching": ValueMatching,
    "policy_gradient": PolicyGradient,
}
"""Config name -> what builds the method of the pilot's rules with the defaults of its config."""
ADAPTERS: Mapping[str, Callable[..., Adapter]] = {
    "control": ControlAdapter,
    "value": ValueAdapter,
    "full": FullAdapter,
    "low_rank": LowRankAdapter,
}
"""Config name -> class of the adapters that the pilot's rules name."""


def chosen_method(choice: Choice) -> FineTuningMethod:
    """The method of a choice with its options.

    Args:
        choice: Of ``flowport.finetuning.pilot.choose``.
    """
    options: dict[str, Any] = dict(choice.options)
    if (steps := options.pop("grid.steps", None)) is not None:
        options["grid"] = UniformGrid(steps)
    return METHODS[choice.method](**options)


def chosen_adapter(choice: Choice) -> Callable[..., Adapter]:
    """The class of the adapter of a choice.

    Args:
        choice: Of ``flowport.finetuning.pilot.choose``.
    """
    return ADAPTERS[choice.adapter]
