"""Certificates of a fine-tuned flow: distance to the tilt, memory of the start, signal-to-noise ratio of the adjoint.

Every path of the controlled SDE has the exact weight e^{λr − S}, S = log dP/dP_base, towards the tilted path law of the
frozen base (``flowport.finetuning.adjoint``), so means of the tuned flow can be compared with those of the tilt where
neither has a closed form. A mode that no path visits is not detected.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
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
from flowport.finetuning.path_weights import annealed_strength, effective, largest_gap, normalised
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
    """Compare the tuned flow's SDE with its tilt, by path weights.

    On a bridge whose field sees its start, weights are normalised start by start: a sixteenth of the batch's starts is
    used, with 16 paths each.

    Args:
        field: The tuned flow.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths, on the device of the batch.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
        feature: Function of the results, (n, *D) to (n, …), whose means are compared in ``gap``; default the points.

    Returns:
        ``reward``, ``base_reward``: mean of λr over paths of the tuned flow and of the base. ``tilted_reward``: its
        path-weighted mean, so that of the tilt. ``energy``: E Σ_k h_k s²_k |G_k|²/2, the path KL to the base in nats.
        ``effective``: effective sample size of the weights e^{λr − S}, a share. ``reached``: the largest a in [0, 1]
        for which the weights e^{a λr − S} have an effective sample size of one half. ``gap``: largest difference of the
        mean of a coordinate of the feature between tuned paths and tilt, in standard deviations of the tilt.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
    groups = 1
    if field.conditioning.sees_source:  # tilt and weights are defined start by start
        groups = max(1, len(pair) // BRANCHES)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(field, pair, generator, BRANCHES if field.conditioning.sees_source else 1)
    paths = roll_out(discretisation, field.base, start, condition, generator, field)
    end = feature(paths.states[-1]).flatten(1).double()
    value = strength * reward.value(paths.states[-1], condition).double()
    base = roll_out(discretisation, field.base, start, condition, generator).states[-1]
    w = normalised(value - paths.log_ratio.double(), groups)
    mean = w @ end
    gap = largest_gap(end.mean(0) - mean, (w @ (end - mean).square()).sqrt())
    numbers = {
        "reward": value.mean(),
        "base_reward": strength * reward.value(base, condition).mean(),
        "tilted_reward": w @ value,
        "energy": paths.energy.mean(),
        "effective": effective(w, groups),
        "reached": annealed_strength(value, paths.log_ratio.double(), groups, 0.5)[0],
        "gap": gap,
    }
    return {name: float(number) for name, number in numbers.items()}


def memory(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    each: int | None = None,
    discretisation: Discretisation | None = None,
) -> float:
    """Memory of the start: Var over x0 of log h_0(x0), with h_0(x0) = E_base[e^{λr(X1)} | x0], in nats².

    h_0 is estimated by the mean over ``each`` base paths from x0, and the variance of that estimate is subtracted by
    the delta method. 0: the base is memoryless for this reward, and the tilt start by start is the tilt of all results;
    large: they differ (the value function bias of Domingo-Enrich et al. 2024).

    Args:
        base: The frozen base.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths, on the device of the batch.
        each: Paths from every start; None: 64.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
    """
    discretisation, each = discretisation or ConsistentDiscretisation(UniformGrid(STEPS)), each or EACH
    discretisation.accept(base)
    start, condition = starts(base, pair, generator, each)
    end = roll_out(discretisation, base, start, condition, generator).states[-1]
    value = strength * reward.value(end, condition).double().view(-1, each)
    log_h = value.logsumexp(1)
    noise = (value - log_h[:, None]).exp().mul(each).var(1) / each  # delta method, of the logarithm of a mean
    return float((log_h.var() - noise.mean()).clamp_min(0))


STEPS = 40
"""Steps of the SDE of ``certificate`` and ``memory`` by default."""
BRANCHES = 16
"""Paths from every start of ``certificate`` on a bridge."""
ROOTS = 4
"""Base paths from every start of ``adjoint_snr`` on a bridge."""
EACH = 64
"""Paths from every start of ``memory`` by default."""
FINER = 5
"""Ratio of the number of steps from which ``adjoint_snr`` estimates the continuous-time control."""


@dataclass(frozen=True)
class AdjointSNR:
    """Bias and signal-to-noise ratio of the lean adjoint as a regression target of G = ∇ log h, by time.

    Args:
        times: Times t_k.
        slopes: E[−a·G]/E|G|², which is 1 without bias.
        signals: E|G|²/E|a − E[a | x]|².
    """

    times: list[float]
    slopes: list[float]
    signals: list[float]

    @property
    def clear(self) -> bool:
        """Whether the signal is at least 0.3 and the slope within 0.15 of 1 at all times (20 steps alone cause 0.1)."""
        return min(self.signals) >= 0.3 and max(abs(s - 1) for s in self.slopes) <= 0.15

    def sentence(self) -> str:
        """The result as one sentence, with the methods to use where the adjoint is not clear."""
        text = f"signal {min(self.signals):.2g}, slopes {min(self.slopes):.2f} to {max(self.slopes):.2f}"
        if self.clear:
            return f"the adjoint sees the answer at all times ({text})"
        return (
            f"the adjoint cannot see the answer at all times ({text}; signal ≥ 0.3 and slopes of 1 ± 0.15 are needed): "
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
    """Estimate bias and signal-to-noise ratio of the adjoint under the tilt, before any training.

    Base paths give states x_k, weighted towards the tilted law. From each, ``branches`` base paths are continued.
    Weighted by e^{λr}, their adjoints should satisfy

        E_tilt[−a_{k+1} | x] = G(x) = ∇ log h(x) = (β/n²)(E_tilt[x1 | x] − E_base[x1 | x]),

    and the right-hand side is estimated, without a gradient of the reward, from as many paths of five times finer
    steps. Two independent halves of these estimate |G|² without the bias of their noise.

    Args:
        base: The frozen base.
        reward: A differentiable reward r.
        strength: λ.
        pair: A batch whose sources the paths start from; on a bridge a quarter of them, with 4 paths each.
        generator: Random generator of the paths, on the device of the batch.
        branches: Paths continued from every state.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 20 uniform steps.
        at: Times at which the adjoint is examined; the nearest noisy step is used.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(20))
    discretisation.accept(base)
    fine = ConsistentDiscretisation(copy(discretisation.grid), offset=1e-3)
    fine.grid.steps = FINER * discretisation.grid.steps
    groups = 1
    if base.conditioning.sees_source:  # the tilt is defined start by start, and so are the weights of the states
        groups = max(1, len(pair) // ROOTS)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(base, pair, generator, ROOTS if base.conditioning.sees_source else 1)
    schedule, paths = discretisation.noise_schedule(base), roll_out(discretisation, base, start, condition, generator)
    index = torch.arange(len(start), device=start.device).repeat_interleave(branches)
    conditions = condition[index]
    found: list[tuple[float, float, float]] = []
    for time in at:
        k = min(range(len(schedule.times) - 2), key=lambda i: abs(schedule.times[i] - time))
        state = paths.states[k]
        branch = roll_out(discretisation, base, state[index], conditions, generator, first=k)
        value, slope = reward.value_and_gradient(branch.states[-1], conditions)
        pull = -lean_adjoint(discretisation, base, branch.states, conditions, -strength * slope.to(start), first=k)[1]
        end = roll_out(fine, base, state[index], conditions, generator, first=FINER * k).states[-1]
        logits, fine_logits = (
            strength * v.to(start).view(-1, branches) for v in (value, reward.value(end, conditions))
        )
        pull, end = (v.flatten(1).view(len(start), branches, -1) for v in (pull, end))
        c = base.path.coefficients(state.new_tensor([schedule.times[k]]).clamp_min(schedule.times[1] / 2))
        gain = c.beta / base.capabilities.role.amplitude(c)[0] ** 2
        halves = [gain * (_mean(end[:, j::2], fine_logits[:, j::2]) - end[:, j::2].mean(1)) for j in (0, 1)]
        root, mean = normalised(logits.logsumexp(1), groups), _mean(pull, logits)
        square = root @ (halves[0] * halves[1]).sum(1)  # E|∇ log h|² without the bias of its estimation noise
        noise = root @ _mean((pull - mean[:, None]).square().sum(2, keepdim=True), logits)[:, 0]
        cross = root @ (mean * (halves[0] + halves[1]) / 2).sum(1)
        found.append((schedule.times[k], float(cross / square), float(square.clamp_min(0) / noise.clamp_min(1e-30))))
    return AdjointSNR(*(list(column) for column in zip(*found, strict=True)))


def _mean(values: Tensor, logits: Tensor) -> Tensor:
    """Mean of values (n, m, D) over the m branches with weights ∝ e^{logits}, logits (n, m): (n, D)."""
    return (logits.softmax(1)[..., None] * values).sum(1)
