"""Adjoint matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.adjoint import lean_adjoint, roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import FineTuningMethod, Rollout, facts_of, finite, origins, starts
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.types import Pair


class AdjointMatching(FineTuningMethod):
    """E Σ_k s²_k |G(x_k) + a|² over the paths of the current field: the control is regressed on the lean adjoint a, so
    that at the minimum G = E[−a | x_k] = ∇ log h, and results follow p e^{λr} (given x0 on a bridge: bridge adjoint
    matching). Domingo-Enrich, Drozdzal, Karrer & Chen 2024; the discretisation: ``flowport.finetuning.discretisation``.

    early: steps drawn at random among those before t = 0.75 (null: all); those after it are always learnt from.
    clip: a term counts at most clip · λ² (the paper: 1.6), null: no limit; it biases the minimum.
    steps_per_rollout: optimiser steps for every collection of paths.
    """

    target = "p e^r: marginal from noise, per start on a bridge that sees it"

    def __init__(
        self,
        discretisation: Discretisation | None = None,
        early: int | None = None,
        clip: float | None = None,
        steps_per_rollout: int = 1,
    ) -> None:
        if (early is not None and early < 0) or (clip is not None and clip <= 0) or steps_per_rollout < 1:
            raise FlowportError(
                f"adjoint matching needs early ≥ 0, clip > 0, steps_per_rollout ≥ 1, not {early}, {clip}, "
                f"{steps_per_rollout}"
            )
        self.discretisation, self.early, self.clip, self.steps_per_rollout = (
            discretisation or ConsistentDiscretisation(),
            early,
            clip,
            steps_per_rollout,
        )

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        self.discretisation.accept(base)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        start, condition = starts(field, pair, generator)
        paths, chain = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        value, slope = reward.value_and_gradient(end, condition)
        adjoint = lean_adjoint(self.discretisation, field.base, paths.states, condition, -strength * slope.to(end))
        paired = adjoint[1:-1] if self.discretisation.after else adjoint[:-2]
        times, variances = (
            torch.tensor(v[: len(paired)], dtype=end.dtype, device=end.device) for v in (chain.times, chain.variances)
        )
        errors = variances[:, None] * (paths.controls + paired).square().flatten(2).sum(2)
        finite(errors, "the squared adjoint", strength)
        power = end.new_tensor(strength)
        facts = facts_of(
            strength * value,
            paths.energy,
            end,
            adjoint_norm=rows(adjoint[0].square()).sqrt().mean(),
            clipped=(errors > self._limit(power)).float().mean(),
        )
        source = origins(start, condition)
        rollout = Rollout(
            source,
            end,
            strength * value,
            paths.log_ratio,
            condition.label,
            times,
            variances,
            paths.states[: len(paired)],
            paired,
            strength=power,
        )
        return rollout, facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        states, adjoints, times, variances = rollout.states, rollout.adjoints, rollout.times, rollout.variances
        assert states is not None and adjoints is not None and times is not None and variances is not None
        k, n = len(times), len(rollout.start)
        chosen = torch.arange(k, device=times.device).expand(n, k)
        if self.early is not None:
            first = sum(t < 0.75 for t in self.discretisation.noise_schedule(field.base).times[:k])
            drawn = torch.rand(n, first, generator=generator, device=times.device).argsort(1)[:, : self.early]
            chosen = torch.cat([drawn, chosen[:, first:]], 1)
        step, row = chosen.flatten(), torch.arange(n, device=times.device).repeat_interleave(chosen.shape[1])
        x, wanted, s2 = states[step, row], -adjoints[step, row], variances[step]
        floor = self.discretisation.noise_schedule(field.base).times[1]
        condition = rollout.condition(field.conditioning.sees_source)[row]
        g = self.discretisation.control(field, x, times[step], condition, s2, floor)
        error = s2 * rows((g - wanted).square().float())
        return Loss(torch.minimum(error, self._limit(rollout.strength)) / x[0].numel())

    def _limit(self, strength: Tensor | None) -> Tensor:
        """What a term counts at most, ()."""
        assert strength is not None
        return torch.full_like(strength, torch.inf) if self.clip is None else self.clip * strength**2
