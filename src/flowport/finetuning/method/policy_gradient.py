"""Policy gradients with clipped ratios: the steps of the discretised SDE are Gaussian policies (Flow-GRPO).

References:
    Liu et al. 2025, "Flow-GRPO: training flow matching models via online RL", arXiv:2505.05470.
    Shao et al. 2024, "DeepSeekMath: pushing the limits of mathematical reasoning in open language models",
        arXiv:2402.03300 (GRPO).
    Schulman, Wolski, Dhariwal, Radford and Klimov 2017, "Proximal policy optimization algorithms", arXiv:1707.06347.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Count, NonNegative, Positive, SampleSize
from flowport.finetuning.adjoint import roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.base import (
    FineTuningMethod,
    Footprint,
    Rollout,
    finite,
    logged_scalars,
    origins,
    scaled_reward,
    starts,
)
from flowport.finetuning.path_weights import centred, law_groups, standardised
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import to_device
from flowport.types import Pair


class PolicyGradient(FineTuningMethod):
    """Policy gradient of E[λr] − kl · KL(P ‖ P_base) with clipped ratios, in the manner of Flow-GRPO.

    At a noisy step of the discretised SDE the action a_k = (x_{k+1} − m_k(x_k))/(h_k s²_k) has the policy
    N(G(x_k), I/(h_k s²_k)). The loss is

        −E Σ_k min(ρ_k A, clamp(ρ_k, 1 − clip, 1 + clip) A),    ρ_k = π(a_k | x_k)/π_old(a_k | x_k),

    where A is λr − kl · S minus its mean over the other paths of the group, S = log dP/dP_base. Without clip and
    normalise its gradient at the policy that made the paths is that of the objective, whose maximum is p e^{λr/kl}/Z:
    the tilt at kl = 1. Paths are made by the averaged flow: ratios correct the distribution of a step's action, not
    that of its state.

    With ``published`` the KL is a term kl Σ_k h_k s²_k |G(x_k)|²/2 of the loss at given states, and A is that of λr
    alone. This ignores that a step changes the KL of later steps, so the fixed point is the tilt only for linear
    rewards of Gaussians.

    A rollout records times (k,), states and actions (k, n, *D), their log_prob up to a constant (k, n).

    Args:
        grid: Times of the SDE's steps; None: 20 uniform steps.
        group: Paths from every start on a bridge whose field sees it; from noise all paths, or those
            of a told class, are one group.
        clip: Half-width of the interval of ratios; None: no clipping.
        kl: Weight of the KL to the base.
        normalise: Whether A is divided by the standard deviation of its group (GRPO), which removes the scale of λ.
        published: Whether the KL is a term of the loss, as in Flow-GRPO, instead of a part of A.
        batch: Pairs of a step and a path per optimiser step; None: all.
        steps_per_rollout: Optimiser steps per collection.

    Raises:
        FlowportError: For clip ≤ 0, kl < 0, group < 2, batch < 1 or steps_per_rollout < 1.
    """

    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        group: SampleSize = 16,
        clip: Positive | None = 0.2,
        kl: NonNegative = 1.0,
        normalise: bool = False,
        published: bool = False,
        batch: Count | None = 4096,
        steps_per_rollout: Count = 4,
    ) -> None:
        options = {"clip": clip, "normalise": normalise, "published": published}
        given = ", ".join(f"{name}={value}".lower() for name, value in options.items() if value)
        tilt = "the tilt p e^{λr}" if kl == 1 else f"p e^{{λr/{kl:g}}}"
        near = f"the reward near the base, {tilt} by clip=null normalise=false published=false alone (here {given})"
        self.target = "none: the reward alone, without a law to keep" if kl == 0 else near if given else tilt
        self.discretisation = ConsistentDiscretisation(grid or UniformGrid(20))
        self.group, self.clip, self.kl, self.normalise, self.published = group, clip, kl, normalise, published
        self.batch, self.steps_per_rollout = batch, steps_per_rollout

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        paths, noisy = starts * (self.group if sees_source else 1), self.discretisation.grid.steps - 1
        return Footprint(paths, self.batch or paths * noisy, 4 * noisy, 2 * noisy)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        start, condition = starts(field, pair, generator, self.group if field.conditioning.sees_source else 1)
        paths, schedule = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        value = scaled_reward(reward, end, condition, strength)
        actions, log_prob = [], []
        for k, t, h, variance in schedule.steps[:-1]:
            with torch.no_grad():
                mean = self.discretisation.step(field.base, paths.states[k], t, h, variance, condition)[0]
            actions.append((paths.states[k + 1] - mean) / (h * variance))
            log_prob.append(-0.5 * h * variance * rows((actions[-1] - paths.controls[k]).square()))
        source = origins(start, condition)
        times = to_device(torch.tensor(schedule.times[: len(actions)], dtype=end.dtype), end.device)
        record = {
            "times": times,
            "states": paths.states[: len(actions)],
            "actions": torch.stack(actions),
            "log_prob": torch.stack(log_prob),
        }
        rollout = Rollout(source, end, value, paths.log_ratio, condition.label, record)
        return rollout, logged_scalars(value, paths.energy, end)

    def advantage(self, field: TiltedField, rollout: Rollout) -> Tensor:
        """Advantage A of every path, (n,).

        Args:
            field: The tuned field, of which the conditioning is read.
            rollout: The collection.
        """
        starts = len(rollout.end) // self.group if field.conditioning.sees_source else None
        gained = rollout.reward if self.published else rollout.reward - self.kl * rollout.log_ratio
        return (standardised if self.normalise else centred)(gained, law_groups(rollout.label, starts))

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout, schedule = replay[-1], self.discretisation.noise_schedule(field.base)
        times, log_prob = rollout["times"], rollout["log_prob"]
        k, n = log_prob.shape
        drawn = torch.arange(k * n, device=times.device)
        if self.batch is not None:
            drawn = torch.randint(k * n, (self.batch,), generator=generator, device=times.device)
        step, row = drawn // n, drawn % n
        known = (torch.tensor(v, dtype=times.dtype) for v in (schedule.variances, schedule.times))
        variances, whole = (to_device(v, times.device) for v in known)
        variance, x, t = variances[step], rollout.at("states", step, row), times[step]
        power = variance * whole.diff()[step]  # h s²
        condition = rollout.condition(field.conditioning.sees_source)[row]
        g = self.discretisation.control(field, x, t, condition, variance, schedule.times[1])
        ratio = (-0.5 * power * rows((rollout.at("actions", step, row) - g).square()) - log_prob[step, row]).exp()
        advantage = self.advantage(field, rollout)[row]
        gained = ratio * advantage
        if self.clip is not None:
            gained = torch.minimum(gained, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        terms = -gained
        if self.published:
            terms = terms + 0.5 * self.kl * power * rows(g.square())
        return Loss(k * terms)  # the mean over draws is a sum over steps
