"""Problems whose flow starts from Gaussian noise and whose tilt is that of the whole target."""

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
    """Flow from N(0, I) to a mixture of Gaussians on the linear path, scored by its ODE.

    Args:
        weights: Weights of the components of the target, (K,).
        means: Their means, K lists of at most d numbers.
        deviations: Standard deviations along the axes of each component, (K, d), or (d,) for all.
        turns: Angles that rotate these axes, (K,) or one for all, in radians.
        c: Vector of the reward, at most d numbers.
        q: Symmetric matrix Q of the reward, (d, d), or a multiple of the identity.
        calls: Number of evaluations of the reward that a fine-tuning may use.
        starts: Number of starts per rollout for methods that take several steps per rollout.
        steps_per_rollout: Number of steps per rollout; None for that of the method.
    """

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
