"""Worlds that start from Gaussian noise: results follow the tilt of the whole target."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.adjoint import Exact
from flowport.capabilities import SourceIsNoise
from flowport.conditioning import Unconditional
from flowport.distribution import Gaussian
from flowport.distribution.parameter import Numbers
from flowport.grid import Uniform
from flowport.path import Linear
from flowport.solver import Heun
from flowport.volatility import Zero
from flowport.world.base import World
from flowport.world.law import Law
from flowport.world.oracle import Oracle


@final
class FromNoise(World):
    """N(0, I) to a mixture of Gaussians on the linear path; judged by the ODE."""

    groups = 1

    def __init__(self, weights: Numbers, means: Sequence[Sequence[float]], deviations: Numbers, turns: Numbers,
                 c: Sequence[float], q: Numbers = 0.0, calls: int = 102_400, starts: int = 2048,
                 rounds: int | None = None) -> None:  # fmt: skip
        super().__init__(weights, means, deviations, turns, c, q, calls, starts, rounds)
        self.law = Law.of(self.target.components)
        self.source = Gaussian(event_shape=self.target.event_shape)
        self.base = self._field(self.law)
        self.sampler, self.chain = (Heun(), Uniform(48), Zero()), Exact(Uniform(128))

    def base_law(self, start: Tensor) -> Law:
        return self.law

    def tilted(self, strength: float) -> Oracle:
        return self._field(self.tilt(strength, self.law.means[:, 0])[0])

    def judged(self, n: int, generator: torch.Generator) -> Tensor:
        return self.source.sample(n, generator).x

    def _field(self, law: Law) -> Oracle:
        return Oracle(law, Linear(), Unconditional(), SourceIsNoise())
