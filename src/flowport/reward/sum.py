"""Weighted sums of rewards, and rewards that are watched beside them."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.reward.plain import adapted
from flowport.types import Condition


@final
class SumReward(Reward):
    """Weighted sum of rewards r = Σ_k w_k r_k; e^r is the product of the single tilts.

    A term of weight 0 is watched: it is evaluated and logged beside the others, and changes nothing. Where the weighted
    terms rise while a watched one falls, the flow exploits what the weighted ones do not see (reward hacking).

    Args:
        terms: Rewards r_k by name, or plain functions and modules; a partial is completed with ``classifier``.
        weights: Weights w_k by name; negative for what is to be avoided, 0 for what is watched.
        classifier: Network from points to logits; None where no term needs it.

    Raises:
        FlowportError: When the names of terms and weights differ, a weight is not finite, all weights are 0, or a
            partial lacks the classifier.

    References:
        Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", arXiv:2210.10760 (a proxy that
            rises while the reward that was meant falls).
    """

    def __init__(
        self,
        terms: Mapping[str, Reward | Callable[..., Any]],
        weights: Mapping[str, float],
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise FlowportError(
                f"a sum of rewards needs one weight for each reward, but reward.terms are {', '.join(terms) or 'none'} "
                f"and reward.weights {dict(weights)}"
            )
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise FlowportError(f"reward.weights.{name}={weight} is not a finite number")
        if not any(weights.values()):
            raise FlowportError(
                "all reward.weights are 0, so that every term is watched and none tunes: give one of "
                f"{', '.join(weights)} another weight"
            )
        self.terms = nn.ModuleDict({name: finished(name, term, classifier) for name, term in terms.items()})
        self.weights = dict(weights)
        self.latest: dict[str, Tensor] = {}
        self._find_gradient()

    def check(self, source: Distribution, target: Distribution) -> None:
        for term in self.term_rewards.values():
            term.check(source, target)
        self._find_gradient()

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        found = {name: self.terms[name](x1, condition) for name, w in self.weights.items() if w}
        self.latest = {name: value.detach() for name, value in found.items()}
        return torch.stack([self.weights[name] * value for name, value in found.items()]).sum(0)

    @property
    def term_rewards(self) -> Mapping[str, Reward]:
        """The terms, weighted and watched ones, by name."""
        return {name: term for name, term in self.terms.items() if isinstance(term, Reward)}

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of the terms by name; 0 for one that is watched."""
        return self.weights

    @property
    def latest_terms(self) -> Mapping[str, Tensor]:
        """The weighted terms of the last ``forward``, each (B,), by name."""
        return self.latest

    def _find_gradient(self) -> None:
        """Whether all weighted terms have a gradient."""
        self.differentiable = all(term.differentiable for name, term in self.term_rewards.items() if self.weights[name])


def finished(name: str, term: Reward | Callable[..., Any], classifier: nn.Module | None) -> Reward:
    """A term of a sum: a partial completed with the classifier, a plain function or module as a reward.

    Args:
        name: Name of the term in the message.
        term: A reward, a partial that takes ``classifier``, or a function or module.
        classifier: Network from points to logits, or None.

    Raises:
        FlowportError: For a partial without a classifier.
    """
    if not isinstance(term, partial) and not inspect.isclass(term):
        return adapted(term)
    if classifier is None:
        raise FlowportError(
            f"reward.terms.{name} needs a classifier: write _partial_: true into the sum's yaml as well"
        )
    make: Callable[..., Any] = term
    return adapted(make(classifier=classifier))
