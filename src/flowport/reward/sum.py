"""Weighted sums of rewards."""

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
    """Weighted sum of rewards r = Σ_k w_k r_k; e^r is the product of the single tilts.

    Args:
        terms: Rewards r_k by name; a partial is completed with ``classifier``.
        weights: Weights w_k by name; negative for what is to be avoided.
        classifier: Network from points to logits; None where no term needs it.

    Raises:
        FlowportError: When the names of terms and weights differ, or a partial lacks the classifier.
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
    """A term of a sum, completed with the classifier where it is a partial.

    Args:
        name: Name of the term in the message.
        term: A reward, or a partial that takes ``classifier``.
        classifier: Network from points to logits, or None.

    Raises:
        FlowportError: For a partial without a classifier.
    """
    if isinstance(term, Reward):
        return term
    if classifier is None:
        raise FlowportError(
            f"reward.terms.{name} needs a classifier: write _partial_: true into the sum's yaml as well"
        )
    return term(classifier=classifier)
