"""Policy gradients: the steps of the chain are Gaussian policies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.finetuning.adjoint import roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.base import FineTuningMethod, Rollout, facts_of, finite, origins, scaled_reward, starts
from flowport.finetuning.path_weights import centred
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.types import Pair


class PolicyGradient(FineTuningMethod):
    """−E Σ_k min(ρ_k A, clamp(ρ_k, 1 ± clip) A), ρ_k = π(a_k | x_k)/π_old(a_k | x_k), for the chain of ``adjoint``: the
    action a = (x_{k+1} − m_k(x_k))/(h s²) is N(G(x_k), 1/(h s²)). In the manner of Flow-GRPO (Liu et al. 2025).

    A is λr − kl · S less the mean over the other paths of its group, S = log dP/dP_base of the path. With clip=null and
    normalise=false this is, at the policy that rolled out, the gradient of E[λr] − kl · KL(P, P_base), whose maximum is
    p e^{λr/kl}: the tilt at kl = 1. Paths of the averaged flow are a little off the policy: ratios correct a step's
    action and not its state. published: KL in the loss, kl Σ_k h s²|G|²/2 at given states, and A of λr alone: it
    forgets that a step moves the KL of later ones, so its fixed point is the tilt for linear rewards of Gaussians only.

    normalise: A is divided by its group's deviation (Shao et al. 2024, GRPO): λ then has no meaning. group: paths from
    every start on a bridge; from noise all paths are one group. batch: pairs of a step and a path in an optimiser step
    (null: all); steps_per_rollout: such steps for every collection.
    """

    target = "p e^{r/kl} with clip=null and normalise=false; otherwise the reward near the base"
    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        group: int = 16,
        clip: float | None = 0.2,
        kl: float = 1.0,
        normalise: bool = False,
        published: bool = False,
        batch: int | None = 4096,
        steps_per_rollout: int = 4,
    ) -> None:
        if (
            (clip is not None and clip <= 0)
            or kl < 0
            or group < 2
            or steps_per_rollout < 1
            or (batch is not None and batch < 1)
        ):
            raise FlowportError(
                f"policy gradients need group ≥ 2, clip > 0, kl ≥ 0 and batch, steps_per_rollout ≥ 1, not {group}, "
                f"{clip}, {kl}, {batch}, {steps_per_rollout}"
            )
        self.discretisation = ConsistentDiscretisation(grid or UniformGrid(20))
        self.group, self.clip, self.kl, self.normalise, self.published = group, clip, kl, normalise, published
        self.batch, self.steps_per_rollout = batch, steps_per_rollout

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        start, condition = starts(field, pair, generator, self.group if field.conditioning.sees_source else 1)
        paths, chain = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        value = scaled_reward(reward, end, condition, strength)
        actions, log_prob = [], []
        for k, t, h, variance in chain.steps[:-1]:
            with torch.no_grad():
                mean = self.discretisation.step(field.base, paths.states[k], t, h, variance, condition)[0]
            actions.append((paths.states[k + 1] - mean) / (h * variance))
            log_prob.append(-0.5 * h * variance * rows((actions[-1] - paths.controls[k]).square()))
        source = origins(start, condition)
        times = end.new_tensor(chain.times[: len(actions)])
        rollout = Rollout(
            source,
            end,
            value,
            paths.log_ratio,
            condition.label,
            times,
            states=paths.states[: len(actions)],
            actions=torch.stack(actions),
            log_prob=torch.stack(log_prob),
        )
        return rollout, facts_of(value, paths.energy, end)

    def advantage(self, field: TiltedField, rollout: Rollout) -> Tensor:
        """A of every path, (n,)."""
        groups = len(rollout.end) // self.group if field.conditioning.sees_source else 1
        gained = rollout.reward if self.published else rollout.reward - self.kl * rollout.log_ratio
        found = centred(gained, groups)
        if not self.normalise:
            return found
        spread = gained.view(groups, -1).std(1, keepdim=True).clamp_min(1e-6)
        return (found.view(groups, -1) / spread).flatten()

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout, chain = replay[-1], self.discretisation.noise_schedule(field.base)
        states, times, actions, log_prob = rollout.states, rollout.times, rollout.actions, rollout.log_prob
        assert states is not None and times is not None and actions is not None and log_prob is not None
        k, n = log_prob.shape
        drawn = torch.arange(k * n, device=times.device)
        if self.batch is not None:
            drawn = torch.randint(k * n, (self.batch,), generator=generator, device=times.device)
        step, row = drawn // n, drawn % n
        variance, x, t = times.new_tensor(chain.variances)[step], states[step, row], times[step]
        power = variance * times.new_tensor(chain.times).diff()[step]  # h s²
        condition = rollout.condition(field.conditioning.sees_source)[row]
        g = self.discretisation.control(field, x, t, condition, variance, chain.times[1])
        ratio = (-0.5 * power * rows((actions[step, row] - g).square()) - log_prob[step, row]).exp()
        advantage = self.advantage(field, rollout)[row]
        gained = ratio * advantage
        if self.clip is not None:
            gained = torch.minimum(gained, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        terms = -gained
        if self.published:
            terms = terms + 0.5 * self.kl * power * rows(g.square())
        return Loss(k * terms)  # the mean over draws is a sum over steps
