"""Path-weighted flow matching, and its combination with the lean adjoint at late times (path-weighted adjoint).

The combination is a construction of this package. Importance weights of controlled paths are those of path-integral
control (Kappen and Ruiz 2016), the lean adjoint that of adjoint matching.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Kappen and Ruiz 2016, "Adaptive importance sampling for control and inference", doi:10.1007/s10955-016-1446-7.
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from flowport.errors import Count, FlowportError, Fraction, SampleSize
from flowport.field.base import Field
from flowport.finetuning.adjoint import ControlledPaths, lean_adjoint, roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation, NoiseSchedule
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
from flowport.finetuning.path_weights import Groups, annealed_strength, effective, law_groups, normalised
from flowport.finetuning.renoising import regression_error, renoised, stratified_times
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import scaled, to_device
from flowport.types import Condition, Pair

LEAST = 0.1
"""Effective sample size, as a share, below which an older collection is not drawn from."""


def weights(replay: Sequence[Rollout], groups: Groups) -> Tensor:
    """Path weights w ∝ e^{τ (a λr − S)} of collections of one size, (collections, n), each normalised in its groups.

    a is the annealed strength of the newest collection for all of them; the temper τ applies to the newest only.

    Args:
        replay: Rollouts of n paths each, the newest last.
        groups: Groups of paths within which weights are normalised; their numbers are (n,) or (collections, n).
    """
    newest = replay[-1]
    reward, log_ratio = (torch.stack([getattr(r, name) for r in replay]) for name in ("reward", "log_ratio"))
    logits = newest["scale"] * reward - log_ratio
    logits[-1] *= newest["temper"]
    return normalised(logits, groups)


class PathWeighted(FineTuningMethod):
    """Flow matching on path-weighted results of the current flow, combined with the path-weighted lean adjoint.

    A path of the controlled SDE has the weight w ∝ e^{a λr(x1) − S}, S = log dP/dP_base, with which expectations are
    those of the tilted path law P_base e^{a λr}/Z for any control, so that errors of one collection are not inherited
    by the next. The base SDE is memoryless, so re-noised weighted results have the law of the weighted paths, and

        E_w[x1 − E_base[x1 | x_t] | x_t] = ΔE[x1 | x_t] = (n²/β) ∇ log h_t(x_t), h of strength a,
        E_w[−a A_{k+1} | x_k] ≈ ∇ log h(x_k) up to O(h), A the lean adjoint from A_K = −λ∇r(x_K).

    Both targets of ΔE[x1 | x] are regressed with the error |·|²/(d spread²) of ``regression_error``: the first at
    uniform times, on results drawn by their weights from all collections of the replay buffer in proportion to their
    effective sample sizes; the second at the noisy steps t_k ≥ ``late`` of the newest paths, drawn by their weights. At
    late times the first has the weight V_A/(V_A + V_F) and the second V_F/(V_A + V_F), V the weighted mean squares of
    the targets of G around the current control (inverse variances). Flow matching gives the weights of separated modes,
    the adjoint their shape.

    a in [0, 1] is the largest value at which the newest weights have the effective sample size ``ess``; weights of all
    collections use the current a. The full strength is reached when a = 1. Where no a has it, the newest weights are
    tempered, τ < 1: no part of the strength is reached, and ``strength_share`` is logged as 0.

    A rollout records scale (annealed strength a) and temper τ (); with the adjoint also times and share (k,),
    states and adjoints (k, n, *D).

    Args:
        grid: Times of the SDE's steps; None: 40 uniform steps.
        late: Time from which the adjoint is used. None: flow matching alone, which needs no gradient of the reward.
        flow: Whether flow matching is used. False: the weighted adjoint alone, at all times.
        ess: Required effective sample size of the weights, a share in (0, 1).
        batch: Points per optimiser step and target.
        steps_per_rollout: Optimiser steps per collection.
        replay_size: Collections in the replay buffer.
        paths: Paths from every start on a bridge whose field sees it, where weights are normalised start by start; from
            noise all paths are one group, or those of a told class.

    Raises:
        FlowportError: Without flow matching and adjoint, or for ess outside (0, 1), paths < 2 or another count < 1.
    """

    target = "the tilt p e^{λr}: marginal from noise, per start on a bridge that sees it"

    def __init__(
        self,
        grid: Grid | None = None,
        late: Fraction | None = 0.8,
        flow: bool = True,
        ess: float = 0.5,
        batch: Count = 512,
        steps_per_rollout: Count = 60,
        replay_size: Count = 20,
        paths: SampleSize = 16,
    ) -> None:
        if not flow and late is None:
            raise FlowportError("method.flow=false method.late=null leaves nothing to learn: set one of them")
        if not 0 < ess < 1:
            raise FlowportError(f"method.ess={ess} must lie between 0 and 1, both excluded")
        self.discretisation = ConsistentDiscretisation(grid or UniformGrid(40))
        self.late, self.flow, self.ess = late, flow, ess
        self.batch, self.steps_per_rollout, self.replay_size, self.paths = batch, steps_per_rollout, replay_size, paths

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the reward must be differentiable: with the adjoint."""
        return self.late is not None

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        noisy = self.discretisation.grid.steps - 1
        late = 1.0 if self.late is None else self.late * self.flow  # without flow matching the adjoint is at all times
        adjoints = max(noisy - ceil(late * (noisy + 1) - 1e-9), 0)  # of a grid that is uniform
        points = self.batch * (self.flow + (self.late is not None))
        return Footprint(starts * (self.paths if sees_source else 1), points, 4 * noisy, adjoints, adjoints)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        paths, schedule = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        slope, groups = None, law_groups(condition.label, len(pair) if given else None)
        if self.late is None:
            value = scaled_reward(reward, end, condition, strength)
        else:
            value, slope = reward.value_and_gradient(end, condition)
            value = finite(strength * value.to(end), "the reward times its strength", strength)
        scale, temper = annealed_strength(value, paths.log_ratio, groups, self.ess)
        source = origins(start, condition)
        record = {"scale": scale, "temper": temper}
        rollout = Rollout(source, end, value, paths.log_ratio, condition.label, record)
        w = weights([rollout], groups)[0]
        facts = logged_scalars(
            value,
            paths.energy,
            end,
            strength_share=torch.where(temper < 1, 0.0, scale),
            temper=temper,
            effective_share=effective(w, groups),
            scaled_tilted_reward=(w * value).sum(),
        )
        if slope is None:
            return rollout, facts
        more = self._adjoint(field, paths, schedule, condition, -strength * slope.to(end), w, scale, strength)
        facts["flow_share"] = more["share"].mean()
        return replace(rollout, record=record | more), facts

    def _adjoint(
        self,
        field: TiltedField,
        paths: ControlledPaths,
        schedule: NoiseSchedule,
        condition: Condition,
        terminal: Tensor,
        w: Tensor,
        scale: Tensor,
        strength: float,
    ) -> dict[str, Tensor]:
        """States and adjoints of the late steps, and the share V_A/(V_A + V_F) of flow matching at each.

        V are the weighted mean squares of the targets −a A_{k+1} and (β/n²)(x1 − E_base[x1 | x_k]) of G around the
        current control.
        """
        steps = self._late_steps(schedule)
        first, end = steps[0], paths.states[-1]
        adjoint = finite(
            lean_adjoint(self.discretisation, field.base, paths.states[first:], condition, terminal, first),
            "the adjoint",
            strength,
        )[1:-1]
        states, controls = paths.states[first : first + len(steps)], paths.controls[first:]
        times = to_device(torch.tensor([schedule.times[k] for k in steps], dtype=end.dtype), end.device)
        share = torch.zeros_like(times)
        if self.flow:
            for k, t in enumerate(times):
                at = t.expand(len(end))
                guess = scaled(
                    field.gains(at).beta / field.gains(at).variance,
                    end - field.base.endpoints(states[k], at, condition)[1],
                )
                flow, late_ = ((w * rows((y - controls[k]).square())).sum() for y in (guess, -scale * adjoint[k]))
                share[k] = torch.where(late_ > 0, late_ / (late_ + flow), 0.0)
        return {"times": times, "states": states, "adjoints": adjoint, "share": share}

    def _late_steps(self, schedule: NoiseSchedule) -> list[int]:
        """Numbers of the noisy steps at which the adjoint is used."""
        late = 0.0 if self.late is None or not self.flow else self.late
        return [k for k, t in enumerate(schedule.times[:-2]) if t >= late - 1e-9]

    def accept(self, base: Field, reward: Reward) -> None:
        """Check that this method can tune a base by a reward.

        Args:
            base: The trained field.
            reward: The reward.

        Raises:
            FlowportError: As in the base class, and where no noisy step is at or after ``late``.
        """
        super().accept(base, reward)
        if not self._late_steps(self.discretisation.noise_schedule(base)):
            raise FlowportError(
                f"method.late={self.late} lies after the last noisy step: lower it, or raise method.grid.steps"
            )

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        terms = []
        if self.flow:
            terms.append(self._flow_terms(field, replay, generator))
        if self.late is not None:
            terms.append(self._adjoint_terms(field, replay[-1], generator))
        return Loss(torch.cat(terms))

    def _groups(self, field: TiltedField, replay: Sequence[Rollout]) -> Groups:
        """Groups within which the weights of collections of one size are normalised."""
        labels = [r.label for r in replay if r.label is not None]
        starts = len(replay[-1].end) // self.paths if field.conditioning.sees_source else None
        return law_groups(torch.stack(labels) if labels else None, starts)

    def _flow_terms(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Tensor:
        """Flow matching of weighted results: |ΔE[x1 | x_t] − (x1 − E_base[x1 | x_t])|²/(d spread²) times its share."""
        newest = replay[-1]
        replay = [r for r in replay if len(r.end) == len(newest.end)]  # a resumed run may have another batch size
        groups = self._groups(field, replay)
        w = weights(replay, groups)
        size = effective(w, groups)
        size[:-1] *= size[:-1] >= LEAST
        draw = torch.multinomial((w * size[:, None]).flatten(), self.batch, replacement=True, generator=generator)
        ends, sources = (torch.cat([getattr(r, side) for r in replay])[draw] for side in ("end", "start"))
        labels = [r.label for r in replay if r.label is not None]
        condition = Condition(
            torch.cat(labels)[draw] if labels else None, sources if field.conditioning.sees_source else None
        )
        t = stratified_times(self.batch, field, ends, generator)
        x = renoised(field, sources, ends, t, generator).x  # memoryless: noise and result are independent
        with torch.no_grad():
            base, guess = field.base.velocity_and_end(x, t, condition)
        error = regression_error(field, x, t, condition, ends - guess, base)
        if "share" not in newest.record:
            return error
        # the share at the last step before t; 1 before the first
        later = torch.searchsorted(newest["times"], t, right=True) - 1
        share = torch.where(later >= 0, newest["share"][later.clamp_min(0)], 1)
        return share * error

    def _adjoint_terms(self, field: TiltedField, rollout: Rollout, generator: torch.Generator) -> Tensor:
        """Adjoint regression |ΔE[x1 | x_k] + (n²/β) a A_{k+1}|²/(d spread²), at states drawn by their paths' weights.

        The factors are 1 − share and the length 1 − t_first of the late interval, in which the steps are uniform.
        """
        times = rollout["times"]
        w = weights([rollout], self._groups(field, [rollout]))[0]
        row = torch.multinomial(w, self.batch, replacement=True, generator=generator)
        step = torch.randint(len(times), (self.batch,), generator=generator, device=times.device)
        t, x = times[step], rollout.at("states", step, row)
        gains = field.gains(t.clamp_min(self.discretisation.noise_schedule(field.base).times[1]))  # β(0) = 0 from noise
        wanted = scaled(gains.variance / gains.beta, -rollout["scale"] * rollout.at("adjoints", step, row))
        error = regression_error(field, x, t, rollout.condition(field.conditioning.sees_source)[row], wanted)
        return (1 - times[0]) * (1 - rollout["share"][step]) * error
