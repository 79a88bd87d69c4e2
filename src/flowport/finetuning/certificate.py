"""How near a tuned flow came to its tilt, and what the tilt can be, without an oracle.

Every path of the tuned chain has the exact weight e^{λr − S} towards the tilted law of the frozen base (``adjoint``):
means of the tuned flow can be held against those of the tilt itself. No weight finds a mode that no path visits.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.path_weights import effective, normalised, reached
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair


def certificate(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    discretisation: Discretisation | None = None,
    feature: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, float]:
    """Of paths of a tuned flow's chain from the starts of a batch (on a bridge from a sixteenth of them, 16 each):

    reward, base_reward: mean of λr over tuned paths and over the base's; tilted_reward: path-weighted, so of the tilt;
    energy: E Σ h s²|G|²/2 = KL to the base; effective: effective sample size of the weights, a share; reached: the
    largest a for which e^{a λr − S} keeps half of it; gap: largest difference of a mean between tuned paths and the
    tilt, in deviations of the tilt: of every number of ``feature(x)``, by default of the points themselves.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
    groups = 1
    if field.conditioning.sees_source:  # every start has a law, so a tilt and weights, of its own
        groups = max(1, len(pair) // BRANCHES)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(field, pair, generator, BRANCHES if field.conditioning.sees_source else 1)
    paths = roll_out(discretisation, field.base, start, condition, generator, field)
    end = feature(paths.states[-1]).flatten(1).double()
    value = strength * reward.value(paths.states[-1], condition).double()
    base = roll_out(discretisation, field.base, start, condition, generator).states[-1]
    w = normalised(value - paths.log_ratio.double(), groups)
    mean = w @ end
    spread = (w @ (end - mean).square()).sqrt().clamp_min(1e-12)
    gap = ((end.mean(0) - mean) / spread).abs().max()
    told = {
        "reward": value.mean(),
        "base_reward": strength * reward.value(base, condition).mean(),
        "tilted_reward": w @ value,
        "energy": paths.energy.mean(),
        "effective": effective(w, groups),
        "reached": reached(value, paths.log_ratio.double(), groups, 0.5)[0],
        "gap": gap,
    }
    return {name: float(number) for name, number in told.items()}


def memory(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    each: int | None = None,
    discretisation: Discretisation | None = None,
) -> float:
    """Var over starts of log ĥ0(x0), ĥ0 the mean of e^{λr} over ``each`` base paths from x0, less the variance that so
    few paths bring: 0 where the tilt per start is the tilt of the whole (memoryless), large where they differ."""
    discretisation, each = discretisation or ConsistentDiscretisation(UniformGrid(STEPS)), each or EACH
    start, condition = starts(base, pair, generator, each)
    end = roll_out(discretisation, base, start, condition, generator).states[-1]
    value = strength * reward.value(end, condition).double().view(-1, each)
    log_h = value.logsumexp(1)
    noise = (value - log_h[:, None]).exp().mul(each).var(1) / each  # delta method, of the logarithm of a mean
    return float((log_h.var() - noise.mean()).clamp_min(0))


STEPS = 40
"""Of a certificate's chain, unless said otherwise."""
BRANCHES = 16
"""Paths from every start of a certificate on a bridge."""
ROOTS = 4
"""States from every start from which the adjoint's signal-to-noise ratio is estimated on a bridge."""
EACH = 64
"""Paths from every start of a memory certificate, unless said otherwise."""
FINER = 5
"""How much finer the steps are that tell the continuous answer."""


@dataclass(frozen=True)
class AdjointSNR:
    """What the adjoint sees at some times: slope E[−a·G]/E|G|², which should be 1, and signal E|G|²/E|a + G|²."""

    times: list[float]
    slopes: list[float]
    signals: list[float]

    @property
    def clear(self) -> bool:
        """Signal at least 0.3 and slope within 0.15 of 1 (20 steps alone bring 0.1) at all times."""
        return min(self.signals) >= 0.3 and max(abs(s - 1) for s in self.slopes) <= 0.15

    def sentence(self) -> str:
        told = f"signal {min(self.signals):.2g}, slopes {min(self.slopes):.2f} to {max(self.slopes):.2f}"
        if self.clear:
            return f"the adjoint sees the answer at all times ({told})"
        return (
            f"the adjoint cannot see the answer at all times ({told}; signal ≥ 0.3 and slopes of 1 ± 0.15 are needed): "
            "use method=path_weighted_adjoint or path_weighted"
        )


def adjoint_snr(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    branches: int = 256,
    discretisation: Discretisation | None = None,
    at: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8),
) -> AdjointSNR:
    """Slope and signal of the adjoint under the tilt, before any training and without an oracle.

    From every state of some base paths, weighted towards the tilted law, ``branches`` base paths go on. Weighted by
    e^{λr}, their adjoints −a_{k+1} should have the mean G = ∇ log h = (β/n²)(E_tilt[x1 | x] − E_base[x1 | x]), which
    as many paths of five times finer steps tell without a gradient.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(20))
    fine = ConsistentDiscretisation(copy(discretisation.grid), offset=1e-3)
    fine.grid.steps = FINER * discretisation.grid.steps
    groups = 1
    if base.conditioning.sees_source:  # every start has a tilt of its own, so states to weight against each other
        groups = max(1, len(pair) // ROOTS)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(base, pair, generator, ROOTS if base.conditioning.sees_source else 1)
    chain, paths = discretisation.noise_schedule(base), roll_out(discretisation, base, start, condition, generator)
    index = torch.arange(len(start), device=start.device).repeat_interleave(branches)
    again = condition[index]
    found: list[tuple[float, float, float]] = []
    for wanted in at:
        k = min(range(len(chain.times) - 2), key=lambda i: abs(chain.times[i] - wanted))
        state = paths.states[k]
        way = roll_out(discretisation, base, state[index], again, generator, first=k)
        value, slope = reward.value_and_gradient(way.states[-1], again)
        pull = -lean_adjoint(discretisation, base, way.states, again, -strength * slope.to(start), first=k)[1]
        end = roll_out(fine, base, state[index], again, generator, first=FINER * k).states[-1]
        logits, told = (strength * v.to(start).view(-1, branches) for v in (value, reward.value(end, again)))
        pull, end = (v.flatten(1).view(len(start), branches, -1) for v in (pull, end))
        c = base.path.coefficients(state.new_tensor([chain.times[k]]).clamp_min(chain.times[1] / 2))
        gain = c.beta / base.capabilities.role.amplitude(c)[0] ** 2
        halves = [gain * (_mean(end[:, j::2], told[:, j::2]) - end[:, j::2].mean(1)) for j in (0, 1)]
        root, seen = normalised(logits.logsumexp(1), groups), _mean(pull, logits)
        aim = root @ (halves[0] * halves[1]).sum(1)  # |∇ log h|² without the bias of its own noise
        noise = root @ _mean((pull - seen[:, None]).square().sum(2, keepdim=True), logits)[:, 0]
        cross = root @ (seen * (halves[0] + halves[1]) / 2).sum(1)
        found.append((chain.times[k], float(cross / aim), float(aim.clamp_min(0) / noise.clamp_min(1e-30))))
    return AdjointSNR(*(list(column) for column in zip(*found, strict=True)))


def _mean(values: Tensor, logits: Tensor) -> Tensor:
    """Mean of (n, m, D) over the branches with weights e^{logits} (n, m): (n, D)."""
    return (logits.softmax(1)[..., None] * values).sum(1)
