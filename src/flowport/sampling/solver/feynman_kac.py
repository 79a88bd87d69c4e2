"""Feynman–Kac sampling: particles of the memoryless SDE, weighted by a reward and resampled, without training.

References:
    Wu, Trippe, Naesseth, Blei and Cunningham 2023, "Practical and asymptotically exact conditional sampling in
        diffusion models", arXiv:2306.17775 (twisted proposals).
    Singhal et al. 2025, "A general framework for inference-time scaling and steering of diffusion models",
        arXiv:2501.06848 (Feynman–Kac steering).
    Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers", doi:10.1111/j.1467-9868.2006.00553.x.
    Maddison et al. 2017, "Filtering variational objectives", arXiv:1705.09279 (the bound of the divergence).
"""

import math
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.field.guidance.reward_guidance import RewardGuidance
from flowport.network.pieces import pieces_of, require_rows, spans
from flowport.prediction.base import MARGIN, endpoints
from flowport.reward.base import Reward, own
from flowport.sampling.dynamics import Dynamics, Process
from flowport.sampling.solver.base import Solver, require_forward
from flowport.sampling.volatility import ZeroVolatility, memoryless_variances
from flowport.tensors import clamped, noise_like, over, to_device
from flowport.types import Condition

ROWS = 4096
"""Particles that are moved at once, at most (one start's at least)."""


@dataclass(frozen=True)
class Results:
    """One result of every start, drawn from its particles.

    Args:
        states: States along the line of ancestors of every result, (K+1, B, *D), or (1, B, *D).
        log_normaliser: log Ẑ of every start, (B,), in nats: E Ẑ = E e^{λr} over the discretised SDE, and by Jensen's
            inequality log Z − E log Ẑ ≥ KL(results ‖ tilt).
    """

    states: Tensor
    log_normaliser: Tensor


@dataclass(frozen=True)
class _Twist:
    """What one evaluation of the field says of particles at t: drift, λ r(E[x1 | x]) and its gradient (or None)."""

    drift: Tensor
    end: Tensor
    value: Tensor
    pull: Tensor | None

    def at(self, index: Tensor) -> "_Twist":
        pull = None if self.pull is None else self.pull[index]
        return _Twist(self.drift[index], self.end[index], self.value[index], pull)


@final
class FeynmanKac(Solver):
    """Sequential Monte Carlo towards the law tilted by e^{λr}, of any field with a score and without training it.

    Every result is drawn from a population of its own of ``particles`` paths of the discretised memoryless SDE
    (``flowport.finetuning.discretisation.ConsistentDiscretisation``), weighted at every step by

        w ← w · e^{V_k(x_k) − V_{k−1}(x_{k−1})} · p/q,    V_k(x) = λ r(E[x1 | x_k = x]),    V_{−1} = 0,

    p/q the ratio of the step's density to that of the proposal; the last step is E[x1 | x] itself, so that the final
    weights are those of e^{λr} of the results. With ``gradient`` the proposal's mean is moved by h s² ∇V_k (twisted
    sampling), else p/q = 1 and the reward needs no gradient. Where the effective size of a population falls below
    ``ess`` times its number it is resampled systematically. As their number grows, results follow p e^{λr}/Z of the
    SDE: from noise marginally, since all particles but the first start from fresh noise, and per start on a bridge
    whose field sees it; per condition where there is one. Results of different starts are independent. A population
    that holds no particle of a mode cannot know of it.

    An evaluation of the field is counted for every particle. Padding does not move.

    Args:
        reward: The reward r, in nats; None where the builder gives that of reward=….
        strength: λ > 0.
        particles: Particles per result.
        gradient: Whether steps are proposed with the reward's gradient, at the cost of a backward pass.
        ess: Effective size below which a population is resampled, a share of its number in [0, 1]; 0: never, and the
            method is importance sampling.
        rows: Particles of which field and reward are evaluated at a time, so that their activations are those of a few
            (``flowport.network.pieces``); None: as field and reward say, all at once by default.

    Raises:
        FlowportError: For strength ≤ 0, particles < 1, an ess outside [0, 1] or rows < 1.
    """

    order = None
    stochastic = True
    needs_score = True

    def __init__(
        self,
        reward: Reward | None = None,
        strength: float = 1.0,
        particles: int = 16,
        gradient: bool = False,
        ess: float = 0.5,
        rows: int | None = None,
    ) -> None:
        if not 0 < strength < math.inf or particles < 1 or not 0 <= ess <= 1:
            raise FlowportError(
                "solver=feynman_kac needs strength > 0, particles ≥ 1 and 0 ≤ ess ≤ 1, not "
                f"{strength}, {particles} and {ess}"
            )
        require_rows(rows)
        self._reward, self.strength = reward, float(strength)
        self.particles, self.gradient, self.ess, self.rows = particles, gradient, ess, rows

    def given(self, reward: Reward, strength: float | None = None) -> "FeynmanKac":
        """The same solver with a reward.

        Args:
            reward: The reward r.
            strength: λ; None for that of the solver.
        """
        same = copy(self)
        same._reward, same.strength = reward, self.strength if strength is None else float(strength)
        return same

    @property
    def reward(self) -> Reward:
        """The reward.

        Raises:
            FlowportError: Where there is none, and where steps need its gradient and it has none.
        """
        if self._reward is None:
            raise FlowportError(
                "solver=feynman_kac needs a reward: write reward=<name>, for instance reward=legibility"
            )
        if self.gradient and not self._reward.differentiable:
            raise FlowportError(
                f"solver=twisted needs the reward's gradient, which reward={self._reward.called} does not have: use "
                "solver=feynman_kac"
            )
        return self._reward

    def accept(self, field: Field) -> None:
        """Check that there is a reward, and that this solver supports a field.

        Args:
            field: The field.

        Raises:
            FlowportError: Without a reward, for one without a gradient that steps need, for a field without a score or
                a guaranteed tilt, and for one that is guided by a reward.
        """
        super().accept(field)
        field.capabilities.role.require_tilt()
        if isinstance(field, RewardGuidance):
            raise FlowportError("solver=feynman_kac uses the reward itself: leave guidance=reward out")
        assert self.reward is not None

    def steps(self, nfe: int) -> int:
        return max(1, nfe // self.particles)

    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool
    ) -> tuple[Tensor, Tensor]:
        found = self.results(dynamics, x, times, generator, all_states)
        return times if all_states else times[-1:], found.states

    def results(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool = False
    ) -> Results:
        """One result of every start, with the estimate of its normaliser.

        Args:
            dynamics: Dynamics of a field.
            x: Starts, (B, *D).
            times: Times (K+1,), ascending.
            generator: The only source of randomness.
            all_states: Whether all K + 1 states are returned, and not only the last.

        Raises:
            FlowportError: For descending times, and without a reward.
        """
        require_forward("feynman_kac", *times[[0, -1]].tolist())
        flow, starts = dynamics.flow(), torch.arange(len(x), device=x.device)
        with nullcontext() if self.rows is None else pieces_of(self.rows, flow.field, self.reward):
            pieces = [
                self._population(flow, x, starts[at], times, generator, all_states)
                for at in spans(len(x), max(1, ROWS // self.particles))
            ]
        calls = (len(times) - 1) * self.particles
        dynamics.evaluations += calls
        return Results(torch.cat([p.states for p in pieces], 1), torch.cat([p.log_normaliser for p in pieces]))

    def _population(
        self, flow: Dynamics, x: Tensor, starts: Tensor, times: Tensor, generator: torch.Generator, all_states: bool
    ) -> Results:
        """Results of some starts, by all their particles at once: rows (starts · particles, *D)."""
        rows = starts.repeat_interleave(self.particles)
        mask = None if flow.mask is None else flow.mask[rows]
        own_flow = Dynamics(flow.field, flow.condition[rows], ZeroVolatility(), mask=mask)
        state, field = self._starts(own_flow, x[rows], generator), flow.field
        grid = times.tolist()
        variances = memoryless_variances(times, field.path, field.capabilities.role).tolist()
        log_weight = state.new_zeros(len(starts), self.particles)
        log_normaliser, lines, before = state.new_zeros(len(starts)), [state], torch.zeros_like(log_weight)
        for k, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            twist = self._twist(own_flow, state, t, variances[k])
            value = twist.value.view_as(log_weight)
            log_weight, index, part = self._resampled(log_weight + value - before, generator)
            log_normaliser = log_normaliser + part
            twist, state, before = twist.at(index), state[index], value.flatten()[index].view_as(log_weight)
            lines = [line[index] for line in lines] if all_states else []
            if k < len(grid) - 2:
                moved, ratio = _step(twist, state, s - t, variances[k], generator)
                log_weight = log_weight + ratio.view_as(log_weight)
            else:
                moved = twist.end
            state = own_flow.masked_update(state, moved)
            lines.append(state)
        log_normaliser = log_normaliser + log_weight.logsumexp(1) - math.log(self.particles)
        chosen = _drawn(log_weight, 1, generator)
        return Results(torch.stack([line[chosen] for line in lines]), log_normaliser)

    def _starts(self, flow: Dynamics, x: Tensor, generator: torch.Generator) -> Tensor:
        """Starts of all particles: fresh ones from noise but for the first of each population."""
        if not isinstance(flow.field.capabilities.role, SourceIsNoise) or self.particles == 1:
            return x
        noise = noise_like(x, generator)
        first = torch.arange(len(x), device=x.device) % self.particles == 0
        fresh = torch.where(over(first, x), x, flow.field.path.start(noise, noise))
        return flow.masked_update(x, fresh)

    def _twist(self, flow: Dynamics, x: Tensor, t: float, variance: float) -> _Twist:
        """Drift, end point, twist and its gradient at t, from one evaluation of the field."""
        at = x.new_full((), t).expand(len(x))
        if not self.gradient:
            drift, end = _drift_and_end(flow.field, x, at, variance, flow.condition)
            return _Twist(drift, end, (self.strength * self.reward.value(end, flow.condition)).to(x), None)
        with torch.inference_mode(False), torch.enable_grad():
            point, given = own(x).requires_grad_(), flow.condition.each(torch.Tensor.clone)
            drift, end = _drift_and_end(flow.field, point, at.clone(), variance, given)
            value, slope = self.reward.value_and_gradient(end.detach(), given)
            (pull,) = torch.autograd.grad(end, point, slope.to(end))
        pull = flow.masked_update(torch.zeros_like(x), self.strength * pull.to(x))
        return _Twist(drift.detach(), end.detach(), (self.strength * value).to(x), pull)

    def _resampled(self, log_weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, P), the rows that go on (B·P,) and what resampling adds to log Ẑ (B,)."""
        effective = 1 / log_weight.softmax(1).square().sum(1, keepdim=True)
        poor = effective < self.ess * self.particles
        rows = torch.arange(log_weight.numel(), device=log_weight.device).view_as(log_weight)
        index = torch.where(poor, _drawn(log_weight, self.particles, generator).view_as(rows), rows).flatten()
        mean = log_weight.logsumexp(1, keepdim=True) - math.log(self.particles)
        return torch.where(poor, 0, log_weight), index, torch.where(poor, mean, 0)[:, 0]


def _drawn(log_weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Rows of n particles of each population, drawn systematically by their weights, (B·n,)."""
    b, p = log_weight.shape
    drawn = torch.rand(b, 1, generator=generator, device=generator.device, dtype=log_weight.dtype)
    places = (to_device(drawn, log_weight.device) + torch.arange(n, device=log_weight.device)) / n
    chosen = torch.searchsorted(log_weight.softmax(1).cumsum(1), places, right=True).clamp_max(p - 1)
    return (chosen + p * torch.arange(b, device=log_weight.device)[:, None]).flatten()


def _step(twist: _Twist, x: Tensor, h: float, variance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Particles after a noisy step, and log p/q of each."""
    noise, scale = noise_like(x, generator), math.sqrt(h * variance)
    moved = x + h * twist.drift + scale * noise
    if twist.pull is None:
        return moved, x.new_zeros(len(x))
    ratio = -(scale * twist.pull * noise + 0.5 * h * variance * twist.pull.square()).flatten(1).sum(1)
    return moved + h * variance * twist.pull, ratio


def _drift_and_end(field: Field, x: Tensor, t: Tensor, variance: float, condition: Condition) -> tuple[Tensor, Tensor]:
    """Drift v + (s²/2) ∇ log p_t of the discretised SDE and E[x1 | x], from one evaluation of the field."""
    role, t = field.capabilities.role, clamped(field.path.clamp(t), MARGIN, 1 - MARGIN)
    state, c = field.flow_state(x, t, condition), field.path.coefficients(t)
    score = -role.noise(state, c, field.start(condition)) / role.amplitude(c.over(x))[0]
    return state.velocity + 0.5 * variance * score, endpoints(state, c, field.start(condition))[1]
