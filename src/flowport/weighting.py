"""Loss weights over time."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from flowport.errors import Refusal
from flowport.path.base import Path


class Weighting(ABC):
    @abstractmethod
    def __call__(self, t: Tensor, path: Path) -> Tensor | None:
        """Weight of each time of the path, (B,); None for 1."""


class Uniform(Weighting):
    """w = 1."""

    def __call__(self, t: Tensor, path: Path) -> None:
        return None


class SignalToNoise(Weighting):
    """w = min(SNR, limit), SNR = β²/α² (β²/γ² on a bridge): the min-SNR weight of Hang et al. (2023) for target error.

    Raises Refusal unless limit > 0.
    """

    def __init__(self, limit: float = 5.0) -> None:
        if limit <= 0:
            raise Refusal(f"weighting=signal_to_noise needs limit > 0, not {limit}")
        self.limit = limit

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        coefficients = path.coefficients(t)
        noise = coefficients.alpha if coefficients.gamma is None else coefficients.gamma
        # min(β²/n², limit) without a division by zero: β² ≥ limit n² decides.
        signal, floor = coefficients.beta**2, noise**2
        return torch.where(signal >= self.limit * floor, self.limit, signal / floor.clamp_min(1e-12))
