"""Discretisations of the memoryless SDE of a base flow, on which reward fine-tuning simulates paths.

The base SDE dX = (v + g²/2 s) dt + g dW, with v the velocity, s the score and g² = 2η the memoryless volatility
(η: ``flowport.finetuning.adapter.base``), becomes, with the control G ≈ ∇ log h of a ``TiltedField``,

    x_{k+1} = m_k(x_k) + h_k s²_k G_k(x_k) + √(h_k s²_k) ε_k,   ε_k ~ N(0, I),   k < K − 1,
    x_K = E[x1 | x_{K−1}], without noise and control,

where m_k is the mean step of the base, h_k the step and s²_k the variance rate (s² below, not the score). Base and
controlled path have the same Gaussian transitions up to the mean, so their likelihood ratio is exact for any control.

The marginal-consistent discretisation, and the same given x0 on a bridge, are constructions of this package, checked
against closed forms in tests/laws/test_adjoint.py.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.errors import Checked, FlowportError
from flowport.field.base import Field
from flowport.finetuning.tilted_field import TiltedField
from flowport.path.linear import LinearPath
from flowport.sampling.grid import Grid, UniformGrid
from flowport.sampling.volatility import memoryless_variances
from flowport.tensors import over
from flowport.types import Condition


@dataclass(frozen=True)
class NoiseSchedule:
    """Times and variance rates of a discretised SDE, as numbers on the host.

    Args:
        times: t_0 … t_K, ascending.
        variances: s²_0 … s²_{K−1}, noise variance per unit of time; the last is 0.
    """

    times: list[float]
    variances: list[float]

    @property
    def steps(self) -> list[tuple[int, float, float, float]]:
        """All steps, as (k, t_k, h_k, s²_k) with h_k = t_{k+1} − t_k."""
        return [
            (k, t, self.times[k + 1] - t, v) for k, (t, v) in enumerate(zip(self.times, self.variances, strict=False))
        ]


class Discretisation(Checked, ABC):
    """Discretisation of the memoryless SDE of a base: its times, variance rates, drift and control.

    A member provides ``drift``, ``control`` and ``pairs_next_adjoint``. The mean step is m_k(x) = x + h_k · drift,
    which must be differentiable in x; the last step is E[x1 | x] for every member.

    To add a member: subclass this class in this module, and add ``configs/discretisation/<name>.yaml`` with
    ``_target_`` and a grid; add a case to ``BASES`` of tests/laws/test_adjoint.py.

    Args:
        grid: Times of the steps, at least 2 steps; None: 20 uniform steps.
        offset: Time o by which the variance is kept away from the ends (``noise_schedule``); None: the first step.

    Attributes:
        pairs_next_adjoint: Whether the control at x_k is regressed on the adjoint after the step, a_{k+1}, instead of
            on a_k.

    Raises:
        FlowportError: For a grid of fewer than 2 steps.
    """

    pairs_next_adjoint: ClassVar[bool]

    def __init__(self, grid: Grid | None = None, offset: float | None = None) -> None:
        self.grid, self.offset = grid or UniformGrid(20), offset
        if self.grid.steps < 2:
            raise FlowportError(f"a fine-tuning chain needs at least 2 steps, not grid.steps={self.grid.steps}")

    def accept(self, base: Field) -> None:
        """Check that this discretisation is defined for a base.

        Args:
            base: The field to be tuned.

        Raises:
            FlowportError: For a base without a score, or whose tilt has no guarantee (``NoiseRole.require_tilt``).
        """
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")

    def noise_schedule(self, base: Field) -> NoiseSchedule:
        """Times and variance rates s²_k = g²((t_k + o)/(1 + 2o)) for a base, the last variance 0.

        g² = 2η is the memoryless volatility, o the offset. From Gaussian noise on the linear path
        s² = 2(1 − t + o)/(t + o), which is finite at t = 0.

        Args:
            base: The field, of which the path and the role of the noise are read.
        """
        times = self.grid.times(base.path)
        variances = memoryless_variances(times, base.path, base.capabilities.role, self.offset)
        return NoiseSchedule(times.tolist(), variances.tolist())

    @abstractmethod
    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Drift of the discretised base SDE at a noisy step, with the base's velocity.

        Args:
            base: The frozen field.
            x: Points, (B, *D).
            t: Times, (B,), all equal.
            h: Step h_k.
            variance: Variance rate s²_k of the step.
            condition: What the field is conditioned on, B rows.

        Returns:
            The drift and the velocity v(x, t), each (B, *D).
        """

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
        """Control G ≈ ∇ log h at x, (B, *D); a step adds h s² G.

        Args:
            field: The tilted field.
            x: Points, (B, *D).
            t: Times of the steps, (B,).
            condition: What the field is conditioned on, B rows.
            variance: Variance rate s² of every row, (B,).
            floor: Earliest time at which the weights of the tilt are evaluated, since η is infinite at t = 0.
            base: The base's velocity at (x, t) if already computed, (B, *D).
        """

    def step(
        self, base: Field, x: Tensor, t: float, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Mean step m_k(x) of the base, and its velocity.

        Args:
            base: The frozen field.
            x: Points, (B, *D).
            t: Time t_k.
            h: Step h_k.
            variance: Variance rate s²_k; 0 means the last step, m(x) = E[x1 | x].
            condition: What the field is conditioned on, B rows.

        Returns:
            m_k(x) and v(x, t_k), each (B, *D); at the last step both are E[x1 | x].
        """
        at = x.new_full((), t).expand(len(x))
        if variance == 0:  # the noiseless last step
            end = base.endpoints(x, at, condition)[1]
            return end, end
        drift, velocity = self.drift(base, x, at, h, variance, condition)
        return x + h * drift, velocity


class ConsistentDiscretisation(Discretisation):
    """Marginal-consistent discretisation: drift v + (s²/2) ∇ log p_t with the variance rate s² of its own noise.

    Drift and noise use the same s², so the base keeps its marginals for any offset, up to O(h). G is regressed on the
    adjoint after the step, a_{k+1}, which is the exact optimality condition of the discretised control problem with
    fixed variances. Its optimum differs from the tilt by O(h) for quadratic rewards and by less for linear ones; 20
    steps reach about the accuracy of ``PaperDiscretisation`` with 40 (tests/laws/test_adjoint.py).
    """

    pairs_next_adjoint = True

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
    """Discretisation as published, for the linear path from Gaussian noise.

    The drift is 2v − x/(t + h), the variance rate s² = 2(1 − t + h)/(t + h), the control term s² G = 2Δv, and G is
    regressed on the adjoint at the start of the step, a_k. Its two O(h) errors are of opposite sign and partly cancel.
    """

    pairs_next_adjoint = False

    def accept(self, base: Field) -> None:
        """Check that the base is a flow from Gaussian noise on the linear path.

        Args:
            base: The field to be tuned.

        Raises:
            FlowportError: For any other path or role of the noise.
        """
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
