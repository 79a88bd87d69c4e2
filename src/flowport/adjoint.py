"""The discretised process that adjoint matching rolls out, and its lean adjoint.

The base SDE dX = (v + g²/2 s) dt + g dW with the memoryless volatility g² = 2η becomes the chain

    x_{k+1} = m_k(x_k) + h_k s²_k G_k(x_k) + √(h_k s²_k) ε_k,      the last step x_K = E[x1 | x_{K−1}] without noise,

m_k the base's own mean step and G ≈ ∇ log h the control (``Tilted``). A step adds nothing but a Gaussian, so the
chain's likelihood ratio to the base is exact for any control. The lean adjoint is transported by the same discrete
steps of the frozen base, a_k = (∂m_k/∂x)ᵀ a_{k+1}, from a_K = −∇r(x_K). Everything here is in float32 or float64.

Domingo-Enrich, Drozdzal, Karrer & Chen 2024 (adjoint matching); the marginal-consistent scheme and the chain given x0
of a bridge are this project's, and proved in tests/laws/test_adjoint.py.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowport.broadcast import over
from flowport.capabilities import SourceIsNoise
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Tilted
from flowport.grid import Grid, Uniform
from flowport.path.linear import Linear
from flowport.shapes import Condition
from flowport.volatility import Memoryless


@dataclass(frozen=True)
class Chain:
    """One discretisation: times t_0 … t_K on the host, and s²_k, k < K (the last is 0)."""

    times: list[float]
    variances: list[float]

    @property
    def steps(self) -> list[tuple[int, float, float, float]]:
        """(k, t_k, h_k, s²_k)."""
        return [
            (k, t, self.times[k + 1] - t, v) for k, (t, v) in enumerate(zip(self.times, self.variances, strict=False))
        ]


class Scheme(ABC):
    """after: whether the control at x_k is regressed on the adjoint after the step, a_{k+1}, rather than on a_k."""

    after: ClassVar[bool]

    def __init__(self, grid: Grid | None = None, offset: float | None = None) -> None:
        self.grid, self.offset = grid or Uniform(20), offset
        if self.grid.steps < 2:
            raise Refusal(f"a fine-tuning chain needs at least 2 steps, not grid.steps={self.grid.steps}")

    def accept(self, base: Field) -> None:
        """Raise Refusal for a base whose chain this scheme does not define."""
        base.able.role.refuse_tilt()
        base.able.require_score("reward fine-tuning")

    def chain(self, base: Field) -> Chain:
        """Times and variances for a base: s² is read at (t + o)/(1 + 2o), which on the linear path is
        2(1 − t + o)/(t + o), finite at t = 0. The offset o is the first step unless it was given."""
        times = self.grid.times(base.path)
        h = float(times[1] - times[0]) if self.offset is None else self.offset
        volatility = Memoryless(offset=1e-4)
        variances = volatility((times[:-1] + h) / (1 + 2 * h), base.path, base.able.role) ** 2
        variances[-1] = 0.0
        return Chain(times.tolist(), variances.tolist())

    @abstractmethod
    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """(drift of the base's chain, the base's velocity) at x (B, *D)."""

    @abstractmethod
    def control(self, field: Tilted, x: Tensor, t: Tensor, condition: Condition, variance: Tensor, floor: float,
                base: Tensor | None = None) -> Tensor:  # fmt: skip
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


class Exact(Scheme):
    """Drift v + s²/2 · s with the same s² as the noise, so that the base keeps its marginals, and the adjoint after the
    step: the fixed point is the tilt up to O(h) of quadratic rewards, at 20 steps what ``Paper`` reaches at 40."""

    after = True

    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        velocity, score = base.velocity_and_score(x, t, condition)
        return velocity + 0.5 * variance * score, velocity

    def control(self, field: Tilted, x: Tensor, t: Tensor, condition: Condition, variance: Tensor, floor: float,
                base: Tensor | None = None) -> Tensor:  # fmt: skip
        return field.tilt(x, t, condition, floor, base)


class Paper(Scheme):
    """As published: drift 2v − x/(t + h), s² = 2(1 − t + h)/(t + h), control 2Δv, and the adjoint at the step's start.

    Its two O(h) errors partly cancel. Raises Refusal for any path but the linear one from Gaussian noise.
    """

    after = False

    def accept(self, base: Field) -> None:
        super().accept(base)
        if not (isinstance(base.path, Linear) and isinstance(base.able.role, SourceIsNoise)):
            raise Refusal(
                "adjoint@objective.scheme=paper is published for path=linear from Gaussian noise: use "
                "adjoint@objective.scheme=exact"
            )

    def drift(
        self, base: Field, x: Tensor, t: Tensor, h: float, variance: float, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        velocity = base.velocity(x, t, condition)
        return 2 * velocity - x / (t[0] + h), velocity

    def control(self, field: Tilted, x: Tensor, t: Tensor, condition: Condition, variance: Tensor, floor: float,
                base: Tensor | None = None) -> Tensor:  # fmt: skip
        return 2 * field.shift(x, t, condition, base) / over(variance, x)


@dataclass(frozen=True)
class Paths:
    """n paths of a controlled chain. states: (K+1, n, *D); controls: G at every noisy step, (K−1, n, *D);
    log_ratio: log dP/dP_base of each path, (n,); energy: Σ h s²|G|²/2 of each path, (n,), whose mean is KL(P, P_base).
    """

    states: Tensor
    controls: Tensor
    log_ratio: Tensor
    energy: Tensor


def rows(x: Tensor) -> Tensor:
    """Sum over everything but the rows, (B,)."""
    return x.flatten(1).sum(1)


@torch.no_grad()
def roll_out(scheme: Scheme, base: Field, start: Tensor, condition: Condition, generator: torch.Generator,
             control: Tilted | None = None, first: int = 0) -> Paths:  # fmt: skip
    """Paths of a base's chain from ``start`` (n, *D) at step ``first``, with the control G of a field tilted from it.

    The base may be a tuned flow itself: it is rolled by its own drift, as ``lean_adjoint`` differentiates it."""
    chain, x = scheme.chain(base), start
    states, controls = [x], []
    log_ratio, energy = x.new_zeros(len(x)), x.new_zeros(len(x))
    for _, t, h, variance in chain.steps[first:]:
        x_next, velocity = scheme.step(base, x, t, h, variance, condition)
        if variance > 0:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            scale = (h * variance) ** 0.5
            x_next = x_next + scale * noise
            if control is not None:
                at, s2 = (x.new_tensor(value).expand(len(x)) for value in (t, variance))
                g = scheme.control(control, x, at, condition, s2, chain.times[1], velocity)
                x_next = x_next + h * variance * g
                spent = 0.5 * h * variance * rows(g.square())
                log_ratio, energy = log_ratio + scale * rows(g * noise) + spent, energy + spent
                controls.append(g)
        x = x_next
        states.append(x)
    made = torch.stack(controls) if controls else x.new_zeros(len(chain.times) - 2, *x.shape)
    return Paths(torch.stack(states), made, log_ratio, energy)


def lean_adjoint(scheme: Scheme, base: Field, states: Tensor, condition: Condition, terminal: Tensor,
                 first: int = 0) -> Tensor:  # fmt: skip
    """a_k = (∂m_k/∂x)ᵀ a_{k+1} of the frozen base along states (K+1−first, n, *D), a_K = ``terminal``: the same shape.

    The states are constants: no gradient flows along the path.
    """
    a, found = terminal, [terminal]
    steps = scheme.chain(base).steps[first:]
    with torch.inference_mode(False), torch.enable_grad():
        for (_, t, h, variance), state in reversed(list(zip(steps, states[:-1], strict=True))):
            x = state.detach().clone().requires_grad_()
            mean, _ = scheme.step(base, x, t, h, variance, condition)
            (a,) = torch.autograd.grad(mean, x, a.to(mean.dtype))
            found.append(a)
    return torch.stack(found[::-1])
