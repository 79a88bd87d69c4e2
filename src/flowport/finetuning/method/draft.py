"""Direct reward fine-tuning (DRaFT): the reward is differentiated through the last steps of the sampler."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowport.errors import Count, FlowportError
from flowport.field.base import Field
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
from flowport.finetuning.renoising import control_energy, reward_surrogate
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import over
from flowport.types import Condition, Pair


class DRaFT(FineTuningMethod):
    """Minimisation of −λ E r(x_N) through the last steps of the Euler method x_{k+1} = x_k + h_k v(x_k, t_k).

    The steps before them are made by the averaged flow at collection and are constants. ``last`` = K is DRaFT-K, and
    ``last`` = N, all steps, is DRaFT.

    There is no term that holds the base's law: for a linear reward the gradient never vanishes, for a concave one all
    results move to its maximum. Early stopping or a small adapter (adapter=low_rank) limits the change.

    A rollout records state, from which the last steps are differentiated, (n, *D), and strength ().

    Args:
        grid: Times of the steps; None: 20 uniform steps.
        last: Number of differentiated steps.
        checkpointing: Whether steps are recomputed in the backward pass, so that memory does not grow with ``last``.
        steps_per_rollout: Optimiser steps per collection.

    Raises:
        FlowportError: For ``last`` outside [1, grid.steps] or steps_per_rollout < 1.

    References:
        Clark, Vicol, Swersky and Fleet 2024, "Directly fine-tuning diffusion models on differentiable rewards",
            arXiv:2309.17400.
    """

    target = "none: the reward alone, without a law to keep"

    def __init__(
        self, grid: Grid | None = None, last: Count = 1, checkpointing: bool = True, steps_per_rollout: Count = 1
    ) -> None:
        self.grid = grid or UniformGrid(20)
        if last > self.grid.steps:
            raise FlowportError(f"method.last={last} must be at most method.grid.steps={self.grid.steps}")
        self.last, self.checkpointing, self.steps_per_rollout = last, checkpointing, steps_per_rollout

    def accept(self, base: Field, reward: Reward) -> None:
        """Check that this method can tune a base by a reward.

        Args:
            base: The trained field.
            reward: The reward, which ``loss`` differentiates.

        Raises:
            FlowportError: As in the base class, and for a bridge from whose start the ODE reaches one point only.
        """
        super().accept(base, reward)
        if not base.capabilities.role.ode(base.path):
            raise FlowportError(
                "method=draft differentiates the ODE, which from the start of this bridge reaches one "
                "point alone: use adjoint_matching, path_weighted_adjoint or refl"
            )
        self._reward = reward

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return Footprint(starts, starts, states=1)

    def differentiated(self, field: TiltedField, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        whole = len(x) <= (field.piece_rows or len(x)) and not self.checkpointing
        for _ in range(self.last if whole else 1):
            x = x + field.velocity(x, t, condition)
        return x

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        start, condition = starts(field, pair, generator)
        first = self.grid.steps - self.last
        with torch.no_grad():
            state = self._integrate(field, start, condition, 0, first)
            end = finite(self._integrate(field, state, condition, first, self.grid.steps), "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        source = origins(start, condition)
        facts = logged_scalars(value, control_energy(field, source, end, condition, generator), end)
        record = {"state": state, "strength": end.new_full((), strength)}
        return Rollout(source, end, value, torch.zeros_like(value), condition.label, record), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        condition = rollout.condition(field.conditioning.sees_source)
        end = self._integrate(field, rollout["state"], condition, self.grid.steps - self.last, self.grid.steps)
        return Loss(-rollout["strength"] * reward_surrogate(self._reward, end, condition))

    def _integrate(self, field: TiltedField, x: Tensor, condition: Condition, first: int, end: int) -> Tensor:
        """State at step ``end`` of the Euler method that starts at x at step ``first``."""
        times = self.grid.times(field.path).tolist()

        def step(x: Tensor, t: Tensor, h: Tensor) -> Tensor:
            return x + over(h, x) * field.velocity(x, t, condition)

        for k in range(first, end):
            t, h = (x.new_full((), value).expand(len(x)) for value in (times[k], times[k + 1] - times[k]))
            whole = len(x) <= (field.piece_rows or len(x))  # else the pieces are recomputed
            recompute = self.checkpointing and whole and torch.is_grad_enabled()
            x = checkpoint(step, x, t, h, use_reentrant=False) if recompute else step(x, t, h)
        return x
