"""Worlds that start from Gaussian noise: results follow the tilt of the whole target."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.conditioning import Unconditional
from flowport.distribution import Gaussian
from flowport.distribution.parameter import Numbers
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.path import LinearPath
from flowport.problem.base import Problem
from flowport.problem.law import MixtureLaw
from flowport.problem.oracle import SharedCovarianceField
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import Heun
from flowport.sampling.volatility import ZeroVolatility


@final
class NoiseProblem(Problem):
    """N(0, I) to a mixture of Gaussians on the linear path; measured by the ODE."""

    groups = 1

    def __init__(
        self,
        weights: Numbers,
        means: Sequence[Sequence[float]],
        deviations: Numbers,
        turns: Numbers,
        c: Sequence[float],
        q: Numbers = 0.0,
        calls: int = 102_400,
        starts: int = 2048,
        steps_per_rollout: int | None = None,
    ) -> None:
        super().__init__(weights, means, deviations, turns, c, q, calls, starts, steps_per_rollout)
        self.law = MixtureLaw.of(self.target.components)
        self.source = Gaussian(event_shape=self.target.event_shape)
        self.base = self._field(self.law)
        self.sampler, self.discretisation = (
            (Heun(), UniformGrid(48), ZeroVolatility()),
            ConsistentDiscretisation(UniformGrid(128)),
        )

    def base_law(self, start: Tensor) -> MixtureLaw:
        return self.law

    def tilted(self, strength: float) -> SharedCovarianceField:
        return self._field(self.tilt(strength, self.law.means[:, 0])[0])

    def scored_starts(self, n: int, generator: torch.Generator) -> Tensor:
        return self.source.sample(n, generator).x

    def _field(self, law: MixtureLaw) -> SharedCovarianceField:
        return SharedCovarianceField(law, LinearPath(), Unconditional(), SourceIsNoise())
