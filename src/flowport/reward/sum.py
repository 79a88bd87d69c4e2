"""r = Σ w_k r_k: several wishes at once."""

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.types import Condition


@final
class SumReward(Reward):
    """r = Σ_k w_k r_k; the tilts by all of them multiply.

    terms: the members by name; one that is a partial is finished with ``classifier``. weights: a number for each name,
    below zero for what shall be avoided. Raises FlowportError where the names differ.
    """

    def __init__(
        self,
        terms: Mapping[str, Reward | Callable[..., Reward]],
        weights: Mapping[str, float],
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise FlowportError(
                f"a sum of rewards needs one weight for each reward, but reward.terms are {', '.join(terms) or 'none'} "
                f"and reward.weights {dict(weights)}"
            )
        self.terms = nn.ModuleDict({name: finished(name, term, classifier) for name, term in terms.items()})
        self.weights = dict(weights)
        self.differentiable = all(term.differentiable for term in self._members())

    def check(self, source: Distribution, target: Distribution) -> None:
        for term in self._members():
            term.check(source, target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return torch.stack([w * self.terms[name](x1, condition) for name, w in self.weights.items()]).sum(0)

    def _members(self) -> list[Reward]:
        return [term for term in self.terms.values() if isinstance(term, Reward)]


def finished(name: str, term: Reward | Callable[..., Reward], classifier: nn.Module | None) -> Reward:
    """The term, built with the classifier where it waits for one."""
    if isinstance(term, Reward):
        return term
    if classifier is None:
        raise FlowportError(
            f"reward.terms.{name} needs a classifier: write _partial_: true into the sum's yaml as well"
        )
    return term(classifier=classifier)
