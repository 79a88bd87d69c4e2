"""Certificate of a fine-tuned flow: its distance to the tilt with errors; signal-to-noise ratio of the adjoint.

The numbers are those of ``flowport.finetuning.two_sided`` from paths of the tuned flow's chain and of its base's. What
its weights cannot carry is withheld, with the reason.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Vehtari, Simpson, Gelman, Yao and Gabry 2015, "Pareto smoothed importance sampling", arXiv:1507.02646 (where a mean
        over importance weights is reliable).
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.paired_chains import paired_paths
from flowport.finetuning.path_weights import normalised
from flowport.finetuning.reliability import Reliability
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair

BLIND_SPOT = "a mode of the tilt that neither the tuned paths nor the base's paths visit is in none of these numbers"
"""What the certificate cannot see."""
STEPS = 40
"""Steps of the SDE of ``certificate`` by default."""
ROOTS = 4
"""Base paths from every start of ``adjoint_snr`` on a bridge."""
FINER = 5
"""Ratio of the number of steps from which ``adjoint_snr`` estimates the continuous-time control."""


@dataclass(frozen=True)
class Certificate:
    """Numbers of a tuned flow with their standard errors, and reasons for those that are withheld.

    Args:
        values: Estimates by name.
        errors: Their standard errors, by the same names; facts that are no estimates have none.
        withheld: Why a number is not stated, by name.
    """

    values: Mapping[str, float]
    errors: Mapping[str, float]
    withheld: Mapping[str, str]

    @property
    def numbers(self) -> dict[str, Any]:
        """<name>, <name>_se and <name>_withheld of all, and blind_spot, a sentence."""
        return {
            **self.values,
            **{f"{name}_se": error for name, error in self.errors.items()},
            **{f"{name}_withheld": reason for name, reason in self.withheld.items()},
            "blind_spot": BLIND_SPOT,
        }

    def told(self, name: str) -> str:
        """A number with its error, or the reason why it is withheld.

        Args:
            name: Of the number.
        """
        if name in self.withheld:
            return f"withheld ({self.withheld[name]})"
        return f"{self.values[name]:.3g} ± {self.errors[name]:.2g}"

    @property
    def sentence(self) -> str:
        """The certificate in one sentence."""
        told = {name: self.told(name) for name in ("kl_to_tilt", "kl_from_tilt", "kl_to_base", "share")}
        rewards = [self.told(name) for name in ("reward", "tilted_reward", "base_reward")]
        return (
            f"KL(tuned‖tilt) {told['kl_to_tilt']}, KL(tilt‖tuned) {told['kl_from_tilt']}, KL(tuned‖base) "
            f"{told['kl_to_base']}; share of the gain {told['share']}: mean reward {rewards[0]}, tilt {rewards[1]}, "
            f"base {rewards[2]}; {self.values['effective']:.0f} effective of {self.values['paths']:.0f} paths"
        )


def certificate(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    discretisation: Discretisation | None = None,
    feature: Callable[[Tensor], Tensor] = torch.clone,
    piece: int | None = None,
) -> Certificate:
    """Compare the chain of the tuned flow with the tilt of its base's chain, from as many paths of each as rows.

    The tilt is that of the law of results given what the field is told: of all results, of every class, or of every
    start (``Grouping``); the numbers are means over classes or starts. They are those of the chain: KL of its paths
    bounds that of its results, and says nothing of results by another sampler.

    Args:
        field: The tuned flow.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
        feature: Function of the results, (n, *D) to (n, …), whose means are compared in ``mean_gap``; default the
            points.
        piece: Paths simulated at once; None for all.

    Returns:
        In nats kl_to_tilt, KL(tuned‖tilt); kl_from_tilt, KL(tilt‖tuned), large where the tuned flow has lost what the
        tilt holds; kl_to_base, KL(tuned‖base). share: (mean r of the tuned flow − base)/(tilt − base). reward,
        base_reward, tilted_reward: mean r of the three; scaled_…: of λr. mean_gap: largest difference of the mean of a
        coordinate of the feature between tuned flow and tilt, in standard deviations of the tilt. memory, where the
        field sees its start: variance over starts of log Z, 0 where the tilt start by start is that of all results.
        pareto_k and effective: shape of the largest weights and effective number of them, of ``paths`` of both chains.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
    found = paired_paths(field, reward, strength, pair, generator, discretisation, feature, piece)
    sides, trusted = found.sides, Reliability(found.sides)
    stated = {
        "kl_to_tilt": sides.kl_to_tilt,
        "kl_from_tilt": sides.kl_from_tilt,
        "kl_to_base": sides.kl_to_base,
        "share": sides.share,
        "scaled_reward": sides.reward_of_tuned,
        "scaled_base_reward": sides.reward_of_base,
        "scaled_tilted_reward": sides.reward_of_tilt,
        "mean_gap": sides.mean_gap(found.feature),
    }
    if field.conditioning.sees_source:
        stated["memory"] = sides.memory
    withheld = {name: reason for name, number in stated.items() if (reason := trusted.doubt(name, number))}
    values = {name: float(number.value) for name, number in stated.items() if name not in withheld}
    errors = {name: float(number.error) for name, number in stated.items() if name not in withheld}
    for scaled in [name for name in stated if name.startswith("scaled_")]:
        name = scaled.removeprefix("scaled_")
        if scaled in withheld:
            withheld[name] = withheld[scaled]
        else:
            values[name], errors[name] = values[scaled] / strength, errors[scaled] / strength
    values |= {"effective": float(sides.effective), "paths": 2 * sides.paths}
    shape = trusted.shape("weights")
    if shape is not None and shape.isfinite():
        values["pareto_k"] = float(shape)
    return Certificate(values, errors, withheld)


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
