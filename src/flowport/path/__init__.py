"""How one pair is joined: x_t = α(t) x0 + β(t) x1 + γ(t) z."""

from flowport.path.base import Coefficients, Path, PathSample
from flowport.path.bridge import BrownianBridge, SmoothBridge
from flowport.path.diffusion import Diffusion, Tabulated, Trigonometric, VarianceExploding, VariancePreserving
from flowport.path.linear import Linear
from flowport.path.polynomial import Functions, Polynomial

__all__ = [
    "BrownianBridge",
    "Coefficients",
    "Diffusion",
    "Functions",
    "Linear",
    "Path",
    "PathSample",
    "Polynomial",
    "SmoothBridge",
    "Tabulated",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
]
