"""Translation between source and target with a trained field: forward, backward and cycle."""

from dataclasses import replace

import torch
from torch import Tensor

from flowport.capabilities import NoNoise
from flowport.errors import FlowportError, option
from flowport.field.base import Field
from flowport.network.replay import replayed
from flowport.sampling.dynamics import Dynamics, evaluation_mode
from flowport.sampling.grid import Grid
from flowport.sampling.solver.base import Solver, Trajectory
from flowport.sampling.volatility import Volatility
from flowport.tensors import noise_like, to_device
from flowport.types import Condition, Sample

GAP = 0.02
"""Share β(0)/α(0) of the target in a path's start from which on a coupled flow estimates it."""


class Translator:
    """Translates source points to target points, or back, by integrating the dynamics of a field.

    Padding (where ``Sample.mask`` is False) is returned unchanged. The number of evaluations in a result is that per
    point.

    Args:
        field: The field, in evaluation mode during a translation.
        solver: Solver of the ODE or SDE.
        grid: Its time grid, used in descending order for backward translation.
        volatility: g(t); zero for the ODE.
        chunk: Number of points integrated at once.

    Raises:
        FlowportError: Where field, solver and volatility do not fit together.
    """

    def __init__(self, field: Field, solver: Solver, grid: Grid, volatility: Volatility, chunk: int = 4096) -> None:
        self.field, self.solver, self.grid, self.volatility, self.chunk = field, solver, grid, volatility, chunk
        solver.accept(field)
        if volatility.stochastic:
            field.capabilities.require_score(option("volatility", volatility))
        if volatility.stochastic and solver.needs_score:
            raise FlowportError(f"{option('solver', solver)} draws its own noise: use volatility=zero with it")
        if not volatility.stochastic and not solver.needs_score and not field.capabilities.role.ode(field.path):
            raise FlowportError(
                f"{option('solver', solver)} with volatility=zero gives one translation for each start, "
                "the mean, where a flow that sees its start has a whole law: use solver=ancestral, or "
                "solver=euler_maruyama with volatility=memoryless"
            )
        if volatility.stochastic and not solver.stochastic:
            raise FlowportError(
                f"{option('solver', solver)} solves ODEs and cannot serve a volatility above zero: use "
                "volatility=zero, or solver=euler_maruyama or solver=stochastic_heun"
            )

    @property
    def reversible(self) -> bool:
        """Whether the backward translation is that of an ODE which does not need the unknown start."""
        stochastic = self.volatility.stochastic or self.solver.stochastic
        return not (stochastic or self.solver.needs_score or self.field.conditioning.sees_source)

    def forward(
        self, source: Sample, generator: torch.Generator, label: Tensor | None = None, all_states: bool = False
    ) -> Trajectory:
        """Translate source points to the target, from the path's start α(0) x0 + γ(0) z.

        Where the path's start holds a share of the target too (``start_gap`` above ``GAP``) and x1 depends on x0 by the
        coupling, β(0) x̂1 is added, with x̂1 the field's estimate of x1 there: one more evaluation.

        Args:
            source: Source points x0, (n, *D).
            generator: Source of the start noise z and of the solver's noise.
            label: Requested target labels, (n,) classes or (n, k) values, for fields conditioned on them.
            all_states: Whether all K + 1 states are returned, and not only the last.
        """
        condition = self.field.conditioning.sampling(source, label)
        z = noise_like(source.x, generator)
        start = self.field.path.start(source.x, z)
        corrected = self.field.path.start_gap > GAP and isinstance(self.field.capabilities.role, NoNoise)
        if corrected:
            start = self._with_target(start, condition)
        start = start if source.mask is None else torch.where(source.mask, start, source.x)
        found = self._run(source.with_x(start), condition, generator, all_states, backward=False)
        return replace(found, nfe=found.nfe + corrected)

    @torch.no_grad()
    def _with_target(self, start: Tensor, condition: Condition) -> Tensor:
        """The start with the share β(0) of the target that the field expects there."""
        zero = torch.zeros(1, dtype=start.dtype, device=start.device)
        beta, ends = self.field.path.beta(zero), []
        with evaluation_mode(self.field):
            for begin in range(0, len(start), self.chunk):
                rows = slice(begin, begin + self.chunk)
                ends.append(self.field.endpoints(start[rows], zero.expand(len(start[rows])), condition[rows])[1])
        return start + beta * torch.cat(ends)

    def backward(
        self,
        target: Sample,
        generator: torch.Generator,
        label: Tensor | None = None,
        source: Sample | None = None,
        all_states: bool = False,
    ) -> Trajectory:
        """Translate target points to the source.

        Args:
            target: Target points x1, (n, *D).
            generator: Source of the solver's noise.
            label: Labels of the target points, (n,) or (n, k); None for those of ``target``.
            source: The sample whose labels condition the field, for fields conditioned on source labels.
            all_states: Whether all K + 1 states are returned, and not only the last.

        Raises:
            FlowportError: For a field conditioned on its start x0, which is unknown here.
        """
        if self.field.conditioning.sees_source:
            raise FlowportError("direction=backward is impossible for a flow that sees its start (conditioning=source)")
        labels = target.label if label is None else label
        condition = self.field.conditioning.sampling(source or Sample(target.x), labels)
        return self._run(target, condition, generator, all_states, backward=True)

    def cycle(self, source: Sample, generator: torch.Generator, label: Tensor | None = None) -> Trajectory:
        """Translate source points to the target and back, whose end is compared with the source.

        The ODE returns to the source up to the error of the solver.

        Args:
            source: Source points x0, (n, *D).
            generator: Source of all noise.
            label: Requested target labels, (n,) or (n, k), for fields conditioned on them.

        Returns:
            The end of the backward translation, with the evaluations of both.
        """
        forward = self.forward(source, generator, label)
        backward = self.backward(Sample(forward.end, mask=source.mask), generator, label, source)
        return Trajectory(backward.times, backward.states, forward.nfe + backward.nfe)

    @torch.no_grad()
    def _run(
        self, start: Sample, condition: Condition, generator: torch.Generator, all_states: bool, backward: bool
    ) -> Trajectory:
        x, times = start.x, self.grid.times(self.field.path).to(start.x.dtype)  # on the host, where solvers read them
        times = times.flip(0) if backward else times
        pieces = []
        with evaluation_mode(self.field), replayed(self.field):
            for begin in range(0, len(x), self.chunk):
                rows = slice(begin, begin + self.chunk)
                mask = None if start.mask is None else start.mask[rows]
                dynamics = Dynamics(self.field, condition[rows], self.volatility, backward, mask)
                pieces.append(self.solver.solve(dynamics, x[rows], times, generator, all_states))
        states = torch.cat([p.states for p in pieces], 1)
        return Trajectory(to_device(pieces[0].times, x.device), states, max(p.nfe for p in pieces))
