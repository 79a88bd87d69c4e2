"""Learning-rate schedulers, as factors of the optimiser's own rate."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flowport.errors import Amount, Checked, Fraction


class CosineScheduler(Checked, LambdaLR):
    """Cosine decay with linear warm-up.

    The factor of the rate at step k, from 0, is

        min(1, (k + 1)/warmup) · (floor + (1 − floor) (1 + cos(π min(1, k/steps)))/2).

    Args:
        optimizer: The optimiser.
        steps: Number of optimiser steps of the training, after which the factor stays at ``floor``.
        warmup: Number of steps of the warm-up; 0 for none.
        floor: Last factor.

    References:
        Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", arXiv:1608.03983.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: Amount = 50, floor: Fraction = 0.02) -> None:
        def factor(step: int) -> float:
            share = min(1.0, step / max(1, steps))
            return min(1.0, (step + 1) / max(1, warmup)) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))

        super().__init__(optimizer, factor)


class ConstantScheduler(Checked, LambdaLR):
    """Constant rate after a linear warm-up, with the factor min(1, (k + 1)/warmup) at step k, from 0.

    Args:
        optimizer: The optimiser.
        steps: Number of optimiser steps of the training, unused.
        warmup: Number of steps of the warm-up; 0 for none.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: Amount = 0) -> None:
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
