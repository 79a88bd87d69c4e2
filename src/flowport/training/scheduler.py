"""Learning rates over training, as factors of the optimiser's own rate."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class CosineScheduler(LambdaLR):
    """Linear warm-up over ``warmup`` steps, then cosine to ``floor`` times the rate at step ``steps``."""

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 50, floor: float = 0.02) -> None:
        def factor(step: int) -> float:
            share = min(1.0, step / max(1, steps))
            return min(1.0, (step + 1) / max(1, warmup)) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))

        super().__init__(optimizer, factor)


class ConstantScheduler(LambdaLR):
    """The optimiser's own rate throughout, after ``warmup`` steps."""

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 0) -> None:
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
