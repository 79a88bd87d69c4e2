"""Probability paths x_t = α(t) x0 + β(t) x1 + γ(t) z between the points of a pair."""

from flowport.path.base import Coefficients, Path, PathSample
from flowport.path.bridge import BrownianBridge, SmoothBridge
from flowport.path.linear import LinearPath
from flowport.path.noise_schedule import (
    DiffusionPath,
    TabulatedPath,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from flowport.path.polynomial import FunctionsPath, PolynomialPath

__all__ = [
    "BrownianBridge",
    "Coefficients",
    "DiffusionPath",
    "FunctionsPath",
    "LinearPath",
    "Path",
    "PathSample",
    "PolynomialPath",
    "SmoothBridge",
    "TabulatedPath",
    "TrigonometricPath",
    "VarianceExplodingPath",
    "VariancePreservingPath",
]
