"""Adjoint matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.adjoint import Exact, Scheme, lean_adjoint, roll_out, rows
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Tilted
from flowport.objective.base import Loss
from flowport.objective.tuning import Rollout, Tuning, facts_of, finite, origins, starts
from flowport.reward.base import Reward
from flowport.shapes import Pair


class AdjointMatching(Tuning):
    """E Σ_k s²_k |G(x_k) + a|² over the paths of the current field: the control is regressed on the lean adjoint a, so
    that at the minimum G = E[−a | x_k] = ∇ log h, and results follow p e^{λr} (given x0 on a bridge: bridge adjoint
    matching). Domingo-Enrich, Drozdzal, Karrer & Chen 2024; THEORY of the scheme: ``flowport.adjoint``.

    early: steps drawn at random among those before t = 0.75 (null: all); those after it are always learnt from.
    clip: a term counts at most clip · λ² (the paper: 1.6), null: no limit; it biases the minimum.
    rounds: optimiser steps for every collection of paths.
    """

    target = "p e^r: marginal from noise, per start on a bridge that sees it"

    def __init__(self, scheme: Scheme | None = None, early: int | None = None, clip: float | None = None,
                 rounds: int = 1) -> None:  # fmt: skip
        if (early is not None and early < 0) or (clip is not None and clip <= 0) or rounds < 1:
            raise Refusal(f"adjoint matching needs early ≥ 0, clip > 0, rounds ≥ 1, not {early}, {clip}, {rounds}")
        self.scheme, self.early, self.clip, self.rounds = scheme or Exact(), early, clip, rounds

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        self.scheme.accept(base)

    def collect(self, field: Tilted, reward: Reward, strength: float, pair: Pair,
                generator: torch.Generator) -> tuple[Rollout, dict[str, Tensor]]:  # fmt: skip
        start, condition = starts(field, pair, generator)
        paths, chain = (
            roll_out(self.scheme, field.base, start, condition, generator, field),
            self.scheme.chain(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        value, slope = reward.value_and_gradient(end, condition)
        adjoint = lean_adjoint(self.scheme, field.base, paths.states, condition, -strength * slope.to(end))
        paired = adjoint[1:-1] if self.scheme.after else adjoint[:-2]
        times, variances = (torch.tensor(v[: len(paired)], dtype=end.dtype, device=end.device)
                            for v in (chain.times, chain.variances))  # fmt: skip
        errors = variances[:, None] * (paths.controls + paired).square().flatten(2).sum(2)
        finite(errors, "the squared adjoint", strength)
        power = end.new_tensor(strength)
        facts = facts_of(
            strength * value, paths.energy, end, adjoint_norm=rows(adjoint[0].square()).sqrt().mean(),
            clipped=(errors > self._limit(power)).float().mean(),
        )  # fmt: skip
        source = origins(start, condition)
        rollout = Rollout(source, end, strength * value, paths.log_ratio, condition.label, times, variances,
                          paths.states[: len(paired)], paired, strength=power)  # fmt: skip
        return rollout, facts

    def loss(self, field: Tilted, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        states, adjoints, times, variances = rollout.states, rollout.adjoints, rollout.times, rollout.variances
        assert states is not None and adjoints is not None and times is not None and variances is not None
        k, n = len(times), len(rollout.start)
        chosen = torch.arange(k, device=times.device).expand(n, k)
        if self.early is not None:
            first = sum(t < 0.75 for t in self.scheme.chain(field.base).times[:k])
            drawn = torch.rand(n, first, generator=generator, device=times.device).argsort(1)[:, : self.early]
            chosen = torch.cat([drawn, chosen[:, first:]], 1)
        step, row = chosen.flatten(), torch.arange(n, device=times.device).repeat_interleave(chosen.shape[1])
        x, wanted, s2 = states[step, row], -adjoints[step, row], variances[step]
        floor = self.scheme.chain(field.base).times[1]
        condition = rollout.condition(field.conditioning.sees_source)[row]
        g = self.scheme.control(field, x, times[step], condition, s2, floor)
        error = s2 * rows((g - wanted).square().float())
        return Loss(torch.minimum(error, self._limit(rollout.strength)) / x[0].numel())

    def _limit(self, strength: Tensor | None) -> Tensor:
        """What a term counts at most, ()."""
        assert strength is not None
        return torch.full_like(strength, torch.inf) if self.clip is None else self.clip * strength**2
