"""Path-weighted flow matching, and the same joined by a late adjoint."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.adjoint import ControlledPaths, lean_adjoint, roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation, NoiseSchedule
from flowport.finetuning.method.base import FineTuningMethod, Rollout, facts_of, finite, origins, scaled_reward, starts
from flowport.finetuning.path_weights import effective, normalised, reached
from flowport.finetuning.renoising import regression_error, renoised, spaced
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import scaled
from flowport.types import Condition, Pair

LEAST = 0.1
"""Effective sample size below which an older collection is left out."""


def weights(replay: Sequence[Rollout], groups: int) -> Tensor:
    """w ∝ e^{τ(a λr − S)} of collections of one size, each normalised in its groups, (collections, n). a, and the
    temper τ of the newest alone, are the newest's."""
    newest = replay[-1]
    assert newest.scale is not None
    reward, log_ratio = (torch.stack([getattr(kept, name) for kept in replay]) for name in ("reward", "log_ratio"))
    logits = newest.scale * reward - log_ratio
    if newest.temper is not None:
        logits[-1] *= newest.temper
    return normalised(logits, groups)


class PathWeighted(FineTuningMethod):
    """Flow matching on re-noised results of the current field, weighted by w = e^{a λr − S}, S = log dP/dP_base of the
    path: exactly the tilted path law for any control, so that errors of one round are not inherited by the next.

    a in [0, 1] is the largest with an effective sample size of ``ess``: automatic annealing; the weights of all kept
    collections use the present a. With ``late`` the weighted lean adjoint is joined to flow matching at steps t ≥ late,
    in inverse proportion to their variances: it gives the shape where flow matching gives the weights of separated
    modes (this project, THEORY 3.8; null: flow matching alone, for rewards without a gradient). flow=false leaves the
    adjoint alone, at all times: a control for experiments.

    paths: rolled out from every start of a batch on a bridge, where the weights are normalised start by start.
    batch: points of an optimiser step; steps_per_rollout: such steps for every collection; replay_size: collections
    in the replay.
    """

    target = "p e^r: marginal from noise, per start on a bridge that sees it"

    def __init__(
        self,
        grid: Grid | None = None,
        late: float | None = 0.8,
        flow: bool = True,
        ess: float = 0.5,
        batch: int = 512,
        steps_per_rollout: int = 60,
        replay_size: int = 20,
        paths: int = 16,
    ) -> None:
        if not flow and late is None:
            raise FlowportError("method=path_weighted needs flow=true or a late adjoint")
        if not 0 < ess < 1 or min(batch, steps_per_rollout, replay_size) < 1 or paths < 2:
            raise FlowportError(
                f"path weights need 0 < ess < 1, batch, steps_per_rollout, replay_size ≥ 1 and paths ≥ 2, not "
                f"{ess}, {batch}, "
                f"{steps_per_rollout}, {replay_size}, {paths}"
            )
        self.discretisation = ConsistentDiscretisation(grid or UniformGrid(40))
        self.late, self.flow, self.ess = late, flow, ess
        self.batch, self.steps_per_rollout, self.replay_size, self.paths = batch, steps_per_rollout, replay_size, paths

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return self.late is not None

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        paths, chain = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        slope, groups = None, len(pair) if given else 1
        if self.late is None:
            value = scaled_reward(reward, end, condition, strength)
        else:
            value, slope = reward.value_and_gradient(end, condition)
            value = finite(strength * value.to(end), "the reward times its strength", strength)
        scale, temper = reached(value, paths.log_ratio, groups, self.ess)
        source = origins(start, condition)
        rollout = Rollout(source, end, value, paths.log_ratio, condition.label, scale=scale, temper=temper)
        w = weights([rollout], groups)[0]
        facts = facts_of(
            value, paths.energy, end, scale=scale, effective=effective(w, groups), tilted_reward=(w * value).sum()
        )
        if slope is None:
            return rollout, facts
        more = self._adjoint(field, paths, chain, condition, -strength * slope.to(end), w, scale, strength)
        facts["flow_share"] = more["share"].mean()
        return Rollout(**{**rollout.tensors(), **more}), facts

    def _adjoint(
        self,
        field: TiltedField,
        paths: ControlledPaths,
        chain: NoiseSchedule,
        condition: Condition,
        terminal: Tensor,
        w: Tensor,
        scale: Tensor,
        strength: float,
    ) -> dict[str, Tensor]:
        """States and adjoints of the late steps, and the share of flow matching there: V_a/(V_a + V_f), V the weighted
        mean squares of both targets around the present control."""
        steps = self._late_steps(chain)
        first, end = steps[0], paths.states[-1]
        adjoint = finite(
            lean_adjoint(self.discretisation, field.base, paths.states[first:], condition, terminal, first),
            "the adjoint",
            strength,
        )[1:-1]
        states, controls = paths.states[first : first + len(steps)], paths.controls[first:]
        times = torch.tensor([chain.times[k] for k in steps], dtype=end.dtype, device=end.device)
        share = torch.zeros_like(times)
        if self.flow:
            for k, t in enumerate(times):
                at = t.expand(len(end))
                guess = scaled(
                    field.gains(at).beta / field.gains(at).variance,
                    end - field.base.endpoints(states[k], at, condition)[1],
                )
                flow, late_ = ((w * rows((y - controls[k]).square())).sum() for y in (guess, -scale * adjoint[k]))
                share[k] = late_ / (late_ + flow).clamp_min(1e-30)
        return {"times": times, "states": states, "adjoints": adjoint, "share": share}

    def _late_steps(self, chain: NoiseSchedule) -> list[int]:
        """Numbers of the noisy steps from which the adjoint is learnt."""
        late = 0.0 if self.late is None or not self.flow else self.late
        return [k for k, t in enumerate(chain.times[:-2]) if t >= late - 1e-9]

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        if not self._late_steps(self.discretisation.noise_schedule(base)):
            raise FlowportError(f"method.late={self.late} lies after the last noisy step: lower it, or use more steps")

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        terms = []
        if self.flow:
            terms.append(self._flow_terms(field, replay, generator))
        if self.late is not None:
            terms.append(self._adjoint_terms(field, replay[-1], generator))
        return Loss(torch.cat(terms))

    def _groups(self, field: TiltedField, rollout: Rollout) -> int:
        return len(rollout.end) // self.paths if field.conditioning.sees_source else 1

    def _flow_terms(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Tensor:
        """|ΔE[x1 | x_t] − (x1 − E_base[x1 | x_t])|² over the spread of x1: flow matching of the weighted results."""
        newest, groups = replay[-1], self._groups(field, replay[-1])
        replay = [kept for kept in replay if len(kept.end) == len(newest.end)]  # a resumed run may have another batch
        w = weights(replay, groups)
        size = effective(w, groups)
        size[:-1] *= size[:-1] >= LEAST
        draw = torch.multinomial((w * size[:, None]).flatten(), self.batch, replacement=True, generator=generator)
        ends, sources = (torch.cat([getattr(kept, side) for kept in replay])[draw] for side in ("end", "start"))
        labels = [kept.label for kept in replay if kept.label is not None]
        condition = Condition(
            torch.cat(labels)[draw] if labels else None, sources if field.conditioning.sees_source else None
        )
        t = spaced(self.batch, field, ends, generator)
        x = renoised(field, sources, ends, t, generator).x  # the schedule is memoryless: any noise goes with any result
        with torch.no_grad():
            base, guess = field.base.velocity_and_end(x, t, condition)
        error = regression_error(field, x, t, condition, ends - guess, base)
        if newest.times is None or newest.share is None:
            return error
        later = torch.searchsorted(newest.times, t, right=True) - 1  # the share at the step before t; 1 before all
        share = torch.where(later >= 0, newest.share[later.clamp_min(0)], 1)
        return share * error

    def _adjoint_terms(self, field: TiltedField, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """|ΔE[x1 | x_k] + (n²/β) a A|² over the spread of x1, at states drawn by the weights of their paths."""
        states, adjoints, times = rollout.states, rollout.adjoints, rollout.times
        assert states is not None and adjoints is not None and times is not None and rollout.share is not None
        assert rollout.scale is not None
        w = weights([rollout], self._groups(field, rollout))[0]
        row = torch.multinomial(w, self.batch, replacement=True, generator=generator)
        step = torch.randint(len(times), (self.batch,), generator=generator, device=times.device)
        t, x = times[step], states[step, row]
        gains = field.gains(
            t.clamp_min(self.discretisation.noise_schedule(field.base).times[1])
        )  # β = 0 where noise starts
        wanted = scaled(gains.variance / gains.beta, -rollout.scale * adjoints[step, row])
        error = regression_error(field, x, t, rollout.condition(field.conditioning.sees_source)[row], wanted)
        return (1 - times[0]) * (1 - rollout.share[step]) * error
