"""What an objective is: a loss of re-paired points."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.prediction.base import Prediction
from flowport.types import ConditionShape, Pair


@dataclass(frozen=True)
class Loss:
    """terms: (B, *) weighted errors, of which the mean is minimised; mask: (B, *) bool, which of them count."""

    terms: Tensor
    mask: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        if self.mask is None:
            return self.terms.mean()
        return torch.where(self.mask, self.terms, 0).sum() / self.mask.sum().clamp_min(1)

    @property
    def per_sample(self) -> Tensor:
        """(B,)."""
        mask = torch.ones_like(self.terms, dtype=torch.bool) if self.mask is None else self.mask
        return torch.where(mask, self.terms, 0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


class Objective(ABC):
    def shown(self, shape: ConditionShape, prediction: Prediction) -> ConditionShape:
        """What the network must accept beside x and t. Raises FlowportError for a prediction that cannot be learnt
        so."""
        return shape

    @abstractmethod
    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        """The loss of re-paired points; all randomness comes from the generator, on the device of the points."""
