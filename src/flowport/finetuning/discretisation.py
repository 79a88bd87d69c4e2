"""Discretisations of the memoryless SDE of a base flow, on which reward fine-tuning simulates paths.

The base SDE dX = (v + g²/2 s) dt + g dW with the memoryless volatility g² = 2η becomes the Markov chain

    x_{k+1} = m_k(x_k) + h_k s²_k G_k(x_k) + √(h_k s²_k) ε_k,      the last step x_K = E[x1 | x_{K−1}] without noise,

with m_k the mean step of the base and G ≈ ∇ log h the control (``TiltedField``). Each step adds a Gaussian only, so the
likelihood ratio of the chain to the base is exact for any control.

References:
    Domingo-Enrich, Drozdzal, Karrer & Chen 2024, Adjoint Matching, arXiv:2409.08861. The marginal-consistent
    discretisation and the chain given x0 of a bridge are derived in this project (tests/laws/test_adjoint.py).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.tilted_field import TiltedField
from flowport.path.linear import LinearPath
from flowport.sampling.grid import Grid, UniformGrid
from flowport.sampling.volatility import MemorylessVolatility
from flowport.tensors import over
from flowport.types import Condition


@dataclass(frozen=True)
class NoiseSchedule:
    """One discretisation: times t_0 … t_K on the host, and s²_k, k < K (the last is 0)."""

    times: list[float]
    variances: list[float]

    @property
    def steps(self) -> list[tuple[int, float, float, float]]:
        """(k, t_k, h_k, s²_k)."""
        return [
            (k, t, self.times[k + 1] - t, v) for k, (t, v) in enumerate(zip(self.times, self.variances, strict=False))
        ]


class Discretisation(ABC):
    """after: whether the control at x_k is regressed on the adjoint after the step, a_{k+1}, rather than on a_k."""

    after: ClassVar[bool]

    def __init__(self, grid: Grid | None = None, offset: float | None = None) -> None:
        self.grid, self.offset = grid or UniformGrid(20), offset
        if self.grid.steps < 2:
            raise FlowportError(f"a fine-tuning chain needs at least 2 steps, not grid.steps={self.grid.steps}")

    def accept(self, base: Field) -> None:
        """Raise FlowportError for a base whose chain this scheme does not define."""
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")

    def noise_schedule(self, base: Field) -> NoiseSchedule:
        """Times and variances for a base: s² is read at (t + o)/(1 + 2o), which on the linear path is
        2(1 − t + o)/(t + o), finite at t = 0. The offset o is the first step unless it was given."""
        times = self.grid.times(base.path)
        h = float(times[1] - times[0]) if self.offset is None else self.offset
        volatility = MemorylessVolatility(offset=1e-4)
        variances = volatility((times[:-1] + h) / (1 + 2 * h), base.path, base.capabilities.role) ** 2
        variances[-1] = 0.0
        return NoiseSchedule(times.tolist(), variances.tolist())

    @abstractmethod
    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """(drift of the base's chain, the base's velocity) at x (B, *D)."""

    @abstractmethod
    def control(
        self,
        field: TiltedField,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        variance: Tensor,
        floor: float,
        base: Tensor | None = None,
    ) -> Tensor:
        """G at x; the chain adds h s² G. variance: s² of every row, (B,); base: the base's velocity, where known."""

    def step(
        self, base: Field, x: Tensor, t: float, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """(m_k(x), the base's velocity at x)."""
        at = x.new_tensor(t).expand(len(x))
        if variance == 0:  # the noiseless last step
            end = base.endpoints(x, at, condition)[1]
            return end, end
        drift, velocity = self.drift(base, x, at, h, variance, condition)
        return x + h * drift, velocity


class ConsistentDiscretisation(Discretisation):
    """Drift v + s²/2 · s with the same s² as the noise, so that the base keeps its marginals, and the adjoint after the
    step: the fixed point is the tilt up to O(h) of quadratic rewards, at 20 steps what ``PaperDiscretisation``
    reaches at 40."""

    after = True

    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        velocity, score = base.velocity_and_score(x, t, condition)
        return velocity + 0.5 * variance * score, velocity

    def control(
        self,
        field: TiltedField,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        variance: Tensor,
        floor: float,
        base: Tensor | None = None,
    ) -> Tensor:
        return field.tilt(x, t, condition, floor, base)


class PaperDiscretisation(Discretisation):
    """As published: drift 2v − x/(t + h), s² = 2(1 − t + h)/(t + h), control 2Δv, and the adjoint at the step's start.

    Its two O(h) errors partly cancel. Raises FlowportError for any path but the linear one from Gaussian noise.
    """

    after = False

    def accept(self, base: Field) -> None:
        super().accept(base)
        if not (isinstance(base.path, LinearPath) and isinstance(base.capabilities.role, SourceIsNoise)):
            raise FlowportError(
                "discretisation@method.discretisation=paper is published for path=linear from Gaussian noise: use "
                "discretisation@method.discretisation=consistent"
            )

    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        velocity = base.velocity(x, t, condition)
        return 2 * velocity - x / (t[0] + h), velocity

    def control(
        self,
        field: TiltedField,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        variance: Tensor,
        floor: float,
        base: Tensor | None = None,
    ) -> Tensor:
        return 2 * field.shift(x, t, condition, base) / over(variance, x)
