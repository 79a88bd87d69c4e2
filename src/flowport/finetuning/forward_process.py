"""Results of the current flow and the points that they are re-noised to, from which forward-process methods learn.

With D = ΔE[x1 | x_t] the change of the predicted end point (``flowport.finetuning.renoising``), a re-noised result has

    rest = x1 − E_old[x1 | x_t] = (n²/(βη)) (ẋ_t − v_old(x_t)),

v_old the velocity of the flow that made the results. E[rest | x_t] = 0 where v_old is the velocity of its own results,
so that E[A · rest | x_t] = Cov(A, x1 | x_t) for every number A of a result, and no baseline of A changes it.

References:
    Zheng et al. 2025, "DiffusionNFT: online diffusion reinforcement with forward process", arXiv:2509.16117.
    Xue et al. 2025, "Advantage weighted matching: aligning RL with pretraining in diffusion models", arXiv:2509.25050.
    Potaptchik, Lee and Albergo 2025, "Tilt matching for scalable sampling and fine-tuning", arXiv:2512.21829.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.finetuning.adjoint import rows
from flowport.finetuning.method.base import Footprint, Rollout, finite, logged_scalars, origins, scaled_reward, starts
from flowport.finetuning.path_weights import centred, law_groups
from flowport.finetuning.renoising import control_energy, renoised, simulate, stratified_times
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid
from flowport.tensors import scaled
from flowport.types import Condition, Pair


@dataclass(frozen=True)
class ForwardPoints:
    """Re-noised points of a rollout, drawn for one optimiser step of B rows.

    Args:
        row: Path of each point, (B,).
        x: Points x_t, (B, *D).
        t: Times, (B,).
        condition: What the field is conditioned on, B rows.
        moved: Change D = ΔE[x1 | x_t] of the field that is trained, (B, *D).
        old: D of the flow that made the results, (B, *D).
        rest: x1 − E_old[x1 | x_t], (B, *D).
        weight: 1/(d spread²), by which squared errors at all times have the same scale, (B,).
    """

    row: Tensor
    x: Tensor
    t: Tensor
    condition: Condition
    moved: Tensor
    old: Tensor
    rest: Tensor
    weight: Tensor

    def squared(self, error: Tensor) -> Tensor:
        """Squared error |error|²/(d spread²), (B,).

        Args:
            error: Difference of two changes D, (B, *D).
        """
        return rows(error.square()) * self.weight


def collect_forward(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    grid: Grid,
    noisings: int,
    paths: int,
) -> tuple[Rollout, dict[str, Tensor]]:
    """Results of the current flow, each re-noised at ``noisings`` times, without gradients.

    The rollout records times (k,), states, old and rest (k, n, *D) as in ``ForwardPoints``.

    Args:
        field: The tuned field.
        reward: The reward r.
        strength: λ.
        pair: A re-paired batch whose sources the paths start from.
        generator: Random generator, on the device of the batch.
        grid: Times of the steps of the simulated flow.
        noisings: Number k of times at which every result is re-noised.
        paths: Results per start on a bridge whose field sees it; one from noise.

    Raises:
        FlowportError: Where results or rewards are not finite.
    """
    start, condition = starts(field, pair, generator, paths if field.conditioning.sees_source else 1)
    end = finite(simulate(field, start, condition, grid, generator)[-1], "a result", strength)
    value, source = scaled_reward(reward, end, condition, strength), origins(start, condition)
    times, states, old, rest = stratified_times(noisings, field, end, generator), [], [], []
    for time in times:
        t = time.expand(len(end))
        sample, gains = renoised(field, source, end, t, generator), field.gains(t)
        with torch.no_grad():
            base = field.base.velocity(sample.x, t, condition)
            shift = field.shift(sample.x, t, condition, base)
        states.append(sample.x)
        old.append(scaled(gains.end, shift))
        rest.append(scaled(gains.end, sample.velocity - base - shift))
    record = {"times": times, "states": torch.stack(states), "old": torch.stack(old), "rest": torch.stack(rest)}
    facts = logged_scalars(value, control_energy(field, source, end, condition, generator), end)
    return Rollout(source, end, value, torch.zeros_like(value), condition.label, record), facts


def resting_law(kl: float, unit: str = "") -> str:
    """The law at which these methods rest, in words.

    Args:
        kl: Weight of the distance to the base.
        unit: Unit of the reward, before the number in the exponent, with a space after it.
    """
    if kl == 0:
        return "a tilt that grows with every collection: no law to stay at"
    divisor = f"{unit}{kl:g}".removesuffix(" 1") if unit else f"{kl:g}"
    exponent = "λr" if divisor == "1" else f"λr/({divisor})"
    return f"p e^{{{exponent}}} for linear rewards of Gaussians; otherwise the reward near the base"


def forward_footprint(starts: int, sees_source: bool, noisings: int, batch: int, paths: int) -> Footprint:
    """What ``collect_forward`` and a step on ``drawn_points`` hold in memory.

    Args:
        starts: Number of starts of a collection.
        sees_source: Whether the field is conditioned on x0.
        noisings: Number of times at which every result is re-noised.
        batch: Points per optimiser step.
        paths: Results per start on a bridge whose field sees it.
    """
    return Footprint(starts * (paths if sees_source else 1), batch, 6 * noisings, 3 * noisings)


def drawn_points(field: TiltedField, rollout: Rollout, batch: int, generator: torch.Generator) -> ForwardPoints:
    """Points of a rollout for one optimiser step, drawn uniformly over its times and paths.

    Args:
        field: The field that is trained.
        rollout: A rollout of ``collect_forward``.
        batch: Number of points B.
        generator: Random generator, on the device of the rollout.
    """
    times, sizes = rollout["times"], rollout["states"].shape[:2]
    step, row = (torch.randint(n, (batch,), generator=generator, device=times.device) for n in sizes)
    (x, old, rest), t = (rollout.at(name, step, row) for name in ("states", "old", "rest")), times[step]
    condition = rollout.condition(field.conditioning.sees_source)[row]
    gains = field.gains(t)
    moved = scaled(gains.end, field.shift(x, t, condition))
    weight = 1 / (gains.spread.square() * x[0].numel())
    return ForwardPoints(row, x, t, condition, moved, old, rest, weight)


def advantage(field: TiltedField, rollout: Rollout, paths: int) -> tuple[Tensor, Tensor]:
    """Advantage λr minus the mean of the group's others, (n,), and its standard deviation Z over all results, ().

    A group is all results from noise, those of a told class, and those of one start on a bridge whose field sees it.
    Where rewards differ by rounding alone, Z is infinite, so that A/Z is 0.

    Args:
        field: The tuned field, of which the conditioning is read.
        rollout: The collection.
        paths: Results per start on such a bridge.
    """
    starts = len(rollout.end) // paths if field.conditioning.sees_source else None
    gained = centred(rollout.reward, law_groups(rollout.label, starts))
    deviation, rounding = (
        gained.square().mean().sqrt(),
        10 * torch.finfo(gained.dtype).eps * rollout.reward.abs().amax(),
    )
    return gained, torch.where(deviation > rounding, deviation, torch.inf)
