"""Tilted chains in one dimension without a network: every step is affine, so fixed points follow by recursion."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.capabilities import Capabilities, ConditionedBridge, SourceIsNoise
from flowport.conditioning import SourceConditioning, Unconditional
from flowport.field import AnalyticField
from flowport.field.analytic import JointMixture
from flowport.finetuning.adapter import Adapter
from flowport.finetuning.discretisation import Discretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.path import LinearPath, Path
from flowport.prediction import VelocityPrediction
from flowport.types import Condition

F64 = torch.float64


def from_noise(joint: JointMixture, path: Path | None = None) -> AnalyticField:
    """The oracle of an independent standard Gaussian source."""
    return AnalyticField(
        joint, path or LinearPath(), VelocityPrediction(), Unconditional(), Capabilities(SourceIsNoise(), True)
    )


def given_start(joint: JointMixture, path: Path) -> AnalyticField:
    """The oracle of a bridge that sees its start."""
    return AnalyticField(
        joint, path, VelocityPrediction(), SourceConditioning(), Capabilities(ConditionedBridge(), True)
    )


def mixture(weights: list[float], means: Tensor, covariances: Tensor) -> JointMixture:
    """N(0, I) and an independent Gaussian mixture."""
    d = means.shape[1]
    one = torch.ones(1, dtype=F64)
    return JointMixture.product(
        one,
        torch.zeros(1, d, dtype=F64),
        torch.eye(d, dtype=F64)[None],
        torch.tensor(weights, dtype=F64),
        means,
        covariances,
    )


class Table(Adapter):
    """G_k(x) = g_k + H_k x at the k-th time of a chain, 1-D."""

    def __init__(self, times: list[float], g: Tensor, h: Tensor, variances: list[float]) -> None:
        super().__init__()
        self.times, self.g, self.h, self.variances = torch.tensor(times, dtype=F64), g, h, variances

    def tilt(self, x, t, condition, base, gains):
        k = int((self.times - self.now).abs().argmin())
        return self.g[k] + self.h[k] * x

    def velocity(self, x, t, condition, base, gains):
        k = int((self.times - float(t[0])).abs().argmin())
        return 0.5 * self.variances[k] * (self.g[k] + self.h[k] * x)


class Tabled(TiltedField):
    """Tells its table the time itself: ``tilt`` is handed weights only."""

    def tilt(self, x, t, condition, floor=0.0, base=None):
        self.adapter.now = float(t[0])
        return super().tilt(x, t, condition, floor, base)


class Difference(Adapter):
    """Δv of the exactly tilted field."""

    def __init__(self, tilted: AnalyticField) -> None:
        super().__init__()
        self.tilted = tilted

    def velocity(self, x, t, condition, base, gains):
        return self.tilted.velocity(x, t, condition) - base


@dataclass(frozen=True)
class Affine:
    """The chain's steps x' = a x + b + h s² G + √(h s²) ε, each (K,)."""

    a: Tensor
    b: Tensor
    h: Tensor
    s2: Tensor

    @classmethod
    def of(cls, discretisation: Discretisation, base: AnalyticField, x0: float | None = None) -> "Affine":
        a, b = [], []
        x = torch.tensor([[0.0], [1.0]], dtype=F64)
        condition = Condition(source=None if x0 is None else torch.full_like(x, x0))
        for _, t, h, variance in discretisation.noise_schedule(base).steps:
            low, high = discretisation.step(base, x, t, h, variance, condition)[0][:, 0].tolist()
            a.append(high - low), b.append(low)
        steps = discretisation.noise_schedule(base).steps
        columns = [[row[i] for row in steps] for i in (2, 3)]
        return cls(*(torch.tensor(c, dtype=F64) for c in (a, b, *columns)))

    def optimum(self, c: float, q: float, after: bool) -> tuple[Tensor, Tensor]:
        """g, H of the fixed point G_k(x) = E[−a | x_k], a = a_{k+1} or a_k, for the reward c x − q x²/2.

        Backwards, with E[x_K | x_{k+1}] = slope · x_{k+1} + shift under the control found so far."""
        g, gain = torch.zeros_like(self.a), torch.zeros_like(self.a)
        slope, shift = float(self.a[-1]), float(self.b[-1])
        flow = float(self.a[-1])  # ∏ of the base's own slopes after this step
        for k in range(len(self.a) - 2, -1, -1):
            a, b, move = float(self.a[k]), float(self.b[k]), float(self.h[k] * self.s2[k])
            weight = flow if after else flow * a
            # G = weight (c − q (slope (a x + b + move G) + shift))
            left = 1 + weight * q * slope * move
            g[k] = weight * (c - q * (slope * b + shift)) / left
            gain[k] = -weight * q * slope * a / left
            slope, shift = slope * (a + move * float(gain[k])), shift + slope * (b + move * float(g[k]))
            flow *= a
        return g, gain

    def moments(self, g: Tensor, gain: Tensor, mean: float = 0.0, variance: float = 1.0) -> tuple[float, float]:
        """Mean and variance of x_K under the control G_k(x) = g_k + gain_k x."""
        for a, b, h, s2, shift, slope in zip(self.a, self.b, self.h, self.s2, g, gain, strict=True):
            factor = float(a + h * s2 * slope)
            mean, variance = factor * mean + float(b + h * s2 * shift), factor**2 * variance + float(h * s2)
        return mean, variance


class Scaled(Adapter):
    """a times the step from a base's velocity to a goal's. For one Gaussian and the tilt by a linear reward as the goal
    this is the tilt of strength a."""

    def __init__(self, base: AnalyticField, goal: AnalyticField, a: float = 1.0) -> None:
        super().__init__()
        self.fields, self.a = (base, goal), a

    def velocity(self, x, t, condition, base, gains):
        ground, goal = (field.velocity(x, t, condition) for field in self.fields)
        return self.a * (goal - ground)


class Line(Adapter):
    """Δv = G = g + k x, with parameters g and k."""

    def __init__(self, g: float = 0.0, k: float = 0.0) -> None:
        super().__init__()
        self.gk = torch.nn.Parameter(torch.tensor([g, k], dtype=F64))

    def velocity(self, x, t, condition, base, gains):
        return self.gk[0] + self.gk[1] * x

    def tilt(self, x, t, condition, base, gains):
        return self.gk[0] + self.gk[1] * x

    def log_value(self, x, t, condition, gains):
        return (self.gk[0] * x + self.gk[1] * x.square() / 2).flatten(1).sum(1)


class Pull(Adapter):
    """ΔE[x1 | x_t] = a spread²."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def velocity(self, x, t, condition, base, gains):
        return (self.a * gains.spread**2 / gains.end)[:, None].expand_as(x)


def vertex(values: list[Tensor]) -> float:
    """Where the parabola through the values at 0, 1 and 2 is least."""
    zero, one, two = (float(v) for v in values)
    bend = (two - 2 * one + zero) / 2
    return -(one - zero - bend) / (2 * bend)
