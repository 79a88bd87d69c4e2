"""Learning-rate schedulers, as factors of the optimiser's own rate."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flowport.errors import Amount, Checked, Fraction

logger = logging.getLogger(__name__)


@dataclass
class CosineFactor:
    """The factor of the rate as a function of the step; its numbers are kept in checkpoints.

    Args:
        steps: Step k at which the floor is reached.
        warmup: Number of steps of the warm-up; 0 for none.
        floor: Last factor.
        start: Step at which the decay begins, where the training was extended there.
        height: Factor at ``start``.
    """

    steps: int
    warmup: int
    floor: float
    start: int = 0
    height: float = 1.0

    def decay(self, step: int) -> float:
        """The factor without the warm-up.

        Args:
            step: Step k, from 0.
        """
        share = min(1.0, max(0, step - self.start) / max(1, self.steps - self.start))
        return self.floor + (self.height - self.floor) * 0.5 * (1 + math.cos(math.pi * share))

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup)) * self.decay(step)


class CosineScheduler(Checked, LambdaLR):
    """Cosine decay with linear warm-up.

    The factor of the rate at step k, from 0, is

        min(1, (k + 1)/warmup) · (floor + (h − floor) (1 + cos(π min(1, (k − s)/(steps − s))))/2),

    with s = 0 and h = 1. Where a training is resumed at step s with another number of steps, warm-up or floor, h is
    the factor that it had reached there, so that the rate goes on without a jump.

    Args:
        optimizer: The optimiser.
        steps: Number of optimiser steps of the training, after which the factor stays at ``floor``.
        warmup: Number of steps of the warm-up; 0 for none.
        floor: Last factor.

    References:
        Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", arXiv:1608.03983.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: Amount = 50, floor: Fraction = 0.02) -> None:
        super().__init__(optimizer, CosineFactor(steps, warmup, floor))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, and go on from its factor where the schedule is another one now.

        Args:
            state_dict: Of another ``CosineScheduler``.
        """
        factor = self.lr_lambdas[0]
        assert isinstance(factor, CosineFactor)
        wanted = factor.steps, factor.warmup, factor.floor
        super().load_state_dict(state_dict)
        found = factor.steps, factor.warmup, factor.floor
        if wanted != found:
            height = factor.decay(self.last_epoch)
            factor.start, factor.height = self.last_epoch, height
            factor.steps, factor.warmup, factor.floor = wanted
            logger.info(
                "the cosine schedule of (steps, warmup, floor) = %s becomes one of %s: from step %d on the rate goes "
                "from %.3g times optimizer.lr to the floor",
                found,
                wanted,
                self.last_epoch,
                height,
            )


class ConstantScheduler(Checked, LambdaLR):
    """Constant rate after a linear warm-up, with the factor min(1, (k + 1)/warmup) at step k, from 0.

    Args:
        optimizer: The optimiser.
        steps: Number of optimiser steps of the training, unused.
        warmup: Number of steps of the warm-up; 0 for none.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: Amount = 0) -> None:
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
