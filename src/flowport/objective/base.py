"""The interface of the training objectives, and the loss that they return."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.errors import Checked
from flowport.field.base import Field
from flowport.prediction.base import Prediction
from flowport.types import ConditionShape, Pair


@dataclass(frozen=True)
class Loss:
    """The weighted errors of a batch, whose mean is minimised.

    Args:
        terms: Weighted errors, (B, *).
        mask: Which of the terms count, bool (B, *); None for all.
    """

    terms: Tensor
    mask: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Mean over all terms that count, a scalar; 0 where none counts."""
        if self.mask is None:
            return self.terms.mean()
        return torch.where(self.mask, self.terms, 0).sum() / self.mask.sum().clamp_min(1)

    @property
    def per_sample(self) -> Tensor:
        """Mean over the terms of each row that count, (B,); 0 where none counts."""
        mask = torch.ones_like(self.terms, dtype=torch.bool) if self.mask is None else self.mask
        return torch.where(mask, self.terms, 0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


class Objective(Checked, ABC):
    """A training objective: the loss of a field on a batch of coupled pairs (x0, x1).

    A member provides ``loss``. In expectation over the pairs and the generator, its gradient must vanish where the
    field is exact, for instance at E[ẋ_t | x_t] for a velocity. A member with buffers or parameters is also an
    ``nn.Module``, so that checkpoints contain them, and changes them in place.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py`` and add
    ``configs/objective/<name>.yaml`` with ``_target_``; tests of its minimiser belong in tests/objective or tests/laws.

    Attributes:
        capturable: Whether a CUDA graph can contain the loss: its operations depend on the shapes of a batch only, and
            it reads nothing from the device.
    """

    capturable: bool = True

    def condition_shape(self, shape: ConditionShape, prediction: Prediction) -> ConditionShape:
        """What the network must accept beside x and t.

        Args:
            shape: What the conditioning requires.
            prediction: What the output of the network means.

        Raises:
            FlowportError: For a prediction that this objective cannot train.
        """
        return shape

    @abstractmethod
    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        """The loss of the field on coupled pairs.

        Args:
            field: The field to train, whose path, prediction and conditioning define the regression.
            pair: Source and target points after the coupling, B rows each.
            generator: The only source of randomness, on the device of the points.
        """
