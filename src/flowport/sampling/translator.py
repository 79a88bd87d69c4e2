"""Translation: forward, backward, cycle and trajectory of a trained field, with evaluations counted."""

import torch
from torch import Tensor

from flowport.errors import FlowportError, option
from flowport.field.base import Field
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import Grid
from flowport.sampling.solver.base import Solver, Trajectory
from flowport.sampling.volatility import Volatility
from flowport.types import Condition, Sample


class Translator:
    """Carries source points to target points (forward) or back.

    Padding (``Sample.mask`` False) stays as it came. chunk: rows integrated at once.
    Raises FlowportError where the field cannot serve the volatility or the solver.
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

    def forward(
        self, source: Sample, generator: torch.Generator, label: Tensor | None = None, keep: bool = False
    ) -> Trajectory:
        """From the path's declared start law over source points (n, *D) to the target. label (n,): the wished target
        label, for fields that see it. keep: return every state, (K+1, n, *D)."""
        condition = self.field.conditioning.sampling(source, label)
        z = torch.randn(source.x.shape, generator=generator, device=source.x.device, dtype=source.x.dtype)
        start = self.field.path.start(source.x, z)
        start = start if source.mask is None else torch.where(source.mask, start, source.x)
        return self._run(source.with_x(start), condition, generator, keep, backward=False)

    def backward(
        self,
        target: Sample,
        generator: torch.Generator,
        label: Tensor | None = None,
        source: Sample | None = None,
        keep: bool = False,
    ) -> Trajectory:
        """From target points to the source. label: of the target points, by default their own. ``source``: whose label
        the field was told, where it sees source labels.
        Raises FlowportError for a field that sees its start: the start is what is asked for."""
        if self.field.conditioning.sees_source:
            raise FlowportError("direction=backward is impossible for a flow that sees its start (conditioning=source)")
        known = target.label if label is None else label
        condition = self.field.conditioning.sampling(source or Sample(target.x), known)
        return self._run(target, condition, generator, keep, backward=True)

    def cycle(self, source: Sample, generator: torch.Generator, label: Tensor | None = None) -> Trajectory:
        """Forward and back again; ``end`` is compared with the source. An ODE returns up to solver error."""
        there = self.forward(source, generator, label)
        back = self.backward(Sample(there.end, mask=source.mask), generator, label, source)
        return Trajectory(back.times, back.states, there.nfe + back.nfe)

    @torch.no_grad()
    def _run(
        self, start: Sample, condition: Condition, generator: torch.Generator, keep: bool, backward: bool
    ) -> Trajectory:
        x, times = start.x, self.grid.times(self.field.path).to(start.x)
        times = times.flip(0) if backward else times
        was_training = self.field.training
        self.field.eval()
        pieces = []
        for begin in range(0, len(x), self.chunk):
            rows = slice(begin, begin + self.chunk)
            mask = None if start.mask is None else start.mask[rows]
            dynamics = Dynamics(self.field, condition[rows], self.volatility, backward, mask)
            pieces.append(self.solver.solve(dynamics, x[rows], times, generator, keep))
        self.field.train(was_training)
        states = torch.cat([p.states for p in pieces], 1)
        return Trajectory(pieces[0].times, states, max(p.nfe for p in pieces))
