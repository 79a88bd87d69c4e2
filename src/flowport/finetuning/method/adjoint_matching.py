"""Adjoint matching: the control is regressed on the lean adjoint of the reward's gradient.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Amount, Count, Positive
from flowport.field.base import Field
from flowport.finetuning.adjoint import lean_adjoint, roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import (
    FineTuningMethod,
    Footprint,
    Rollout,
    finite,
    logged_scalars,
    origins,
    starts,
)
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.tensors import to_device
from flowport.types import Pair


class AdjointMatching(FineTuningMethod):
    """Adjoint matching: regression of the control G on the lean adjoint along paths of the current flow.

    The loss is the mean over noisy steps k and paths of

        s²_k |G(x_k) + a|²/d,    a = a_{k+1} or a_k by the discretisation,    a_K = −λ∇r(x_K),

    d the number of coordinates. Its fixed point is G(x_k) = E[−a | x_k] = ∇ log h, so that results follow p e^{λr}/Z.
    Three things differ from the publication whatever the options. The loss is a mean over terms and coordinates where
    the paper has a sum, which Adam does not see but a clipped gradient does. The last of the K steps is E[x1 | x] of
    the base, without noise and control, so K − 1 steps are learnt from: a learnt last step would be noisy and part of
    the log-ratio, since with a control but no noise the KL of the paths to the base's is infinite. And what is trained
    is the adapter; ``adapter=full`` trains all weights, as the paper does.

    On a bridge whose field sees x0 the same holds given x0 (bridge adjoint matching), with the tilt p(· | x0) e^{λr}.

    A rollout records times and variances (k,), states and lean adjoints (k, n, *D), strength ().

    Args:
        discretisation: Steps of the SDE and pairing of the adjoint; None: ``ConsistentDiscretisation()``.
        early: Number of steps drawn at random for every path among those before t = 0.75; later steps are always used.
            None: all steps.
        clip: A term s²_k |G + a|² counts at most clip · λ² (the paper: 1.6), which biases the fixed point. None: no
            limit.
        steps_per_rollout: Optimiser steps per collection of paths.
        gradient_clip: Largest norm of the gradient where trainer.gradient_clip_val is null (the paper: 1); None: no
            limit.

    Raises:
        FlowportError: For early < 0, clip ≤ 0, gradient_clip ≤ 0 or steps_per_rollout < 1.
    """

    def __init__(
        self,
        discretisation: Discretisation | None = None,
        early: Amount | None = None,
        clip: Positive | None = None,
        steps_per_rollout: Count = 1,
        gradient_clip: Positive | None = None,
    ) -> None:
        self.gradient_clip = gradient_clip
        cut = "" if clip is None else f", but for the bias of terms that are cut at clip · λ² = {clip:g} λ²"
        self.target = f"the tilt p e^{{λr}}: marginal from noise, per start on a bridge that sees it{cut}"
        self.discretisation, self.early, self.clip, self.steps_per_rollout = (
            discretisation or ConsistentDiscretisation(),
            early,
            clip,
            steps_per_rollout,
        )

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        self.discretisation.accept(base)

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        noisy = self.discretisation.grid.steps - 1
        terms = noisy if self.early is None else min(noisy, self.early + 1 + noisy // 4)
        return Footprint(starts, starts * terms, 5 * noisy, noisy, noisy)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        start, condition = starts(field, pair, generator)
        paths, schedule = (
            roll_out(self.discretisation, field.base, start, condition, generator, field),
            self.discretisation.noise_schedule(field.base),
        )
        end = finite(paths.states[-1], "a rolled-out path", strength)
        value, slope = reward.value_and_gradient(end, condition)
        adjoint = lean_adjoint(self.discretisation, field.base, paths.states, condition, -strength * slope.to(end))
        paired = adjoint[1:-1] if self.discretisation.pairs_next_adjoint else adjoint[:-2]
        times, variances = (
            to_device(torch.tensor(v[: len(paired)], dtype=end.dtype), end.device)
            for v in (schedule.times, schedule.variances)
        )
        errors = variances[:, None] * (paths.controls + paired).square().flatten(2).sum(2)
        finite(errors, "the squared adjoint", strength)
        power = end.new_full((), strength)
        facts = logged_scalars(
            strength * value,
            paths.energy,
            end,
            adjoint_norm=rows(adjoint[0].square()).sqrt().mean(),
            clipped=(errors > self._limit(power)).float().mean(),
        )
        source = origins(start, condition)
        record = {
            "times": times,
            "variances": variances,
            "states": paths.states[: len(paired)],
            "adjoints": paired,
            "strength": power,
        }
        return Rollout(source, end, strength * value, paths.log_ratio, condition.label, record), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        times, variances = rollout["times"], rollout["variances"]
        k, n = len(times), len(rollout.start)
        chosen = torch.arange(k, device=times.device).expand(n, k)
        if self.early is not None:
            first = sum(t < 0.75 for t in self.discretisation.noise_schedule(field.base).times[:k])
            drawn = torch.rand(n, first, generator=generator, device=times.device).argsort(1)[:, : self.early]
            chosen = torch.cat([drawn, chosen[:, first:]], 1)
        step, row = chosen.flatten(), torch.arange(n, device=times.device).repeat_interleave(chosen.shape[1])
        x, wanted, s2 = rollout.at("states", step, row), -rollout.at("adjoints", step, row), variances[step]
        floor = self.discretisation.noise_schedule(field.base).times[1]
        condition = rollout.condition(field.conditioning.sees_source)[row]
        g = self.discretisation.control(field, x, times[step], condition, s2, floor)
        error = s2 * rows((g - wanted).square().float())
        return Loss(torch.minimum(error, self._limit(rollout["strength"])) / x[0].numel())

    def _limit(self, strength: Tensor) -> Tensor:
        """Largest value of a term, clip · λ² or infinity, ()."""
        return torch.full_like(strength, torch.inf) if self.clip is None else self.clip * strength**2
