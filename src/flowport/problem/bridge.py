"""Worlds that start from data: a bridge that sees its start, and one tilt for every start."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.capabilities import BridgeGivenSource
from flowport.conditioning import SourceConditioning
from flowport.distribution import Gaussian
from flowport.distribution.base import Distribution
from flowport.distribution.parameter import Numbers
from flowport.errors import FlowportError
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.path import BrownianBridge
from flowport.problem.base import Problem
from flowport.problem.law import MixtureLaw
from flowport.problem.oracle import SharedCovarianceField
from flowport.sampling.grid import PowerGrid
from flowport.sampling.solver import EulerMaruyama
from flowport.sampling.volatility import MemorylessVolatility


@final
class BridgeProblem(Problem):
    """Any source to a mixture of Gaussians on a Brownian bridge that sees its start x0.

    correlation ρ: with Cov(x0, x1) = ρ L0 L1ᵀ, L Cholesky factors of a Gaussian source N(m0, S0) and a target of one
    component N(m, S), so that x1 given x0 is N(m + ρ L1 L0⁻¹(x0 − m0), (1 − ρ²) S) and differs from start to start; 0:
    independent, for any laws. noise: of the bridge. Judged by the SDE, at ``groups`` starts.
    Raises FlowportError for a correlation between other laws, or of 1 and more.
    """

    groups = 4

    def __init__(
        self,
        source: Distribution,
        weights: Numbers,
        means: Sequence[Sequence[float]],
        deviations: Numbers,
        turns: Numbers,
        c: Sequence[float],
        q: Numbers = 0.0,
        correlation: float = 0.0,
        noise: float = 1.0,
        calls: int = 102_400,
        starts: int = 128,
        steps_per_rollout: int | None = None,
    ) -> None:
        super().__init__(weights, means, deviations, turns, c, q, calls, starts, steps_per_rollout)
        law = MixtureLaw.of(self.target.components)
        self.source, self.path, self.independent = source, BrownianBridge(noise), correlation == 0
        self.gain, self.centre = _regression(source, law, correlation)
        self.law = MixtureLaw(law.log_weights, law.means, (1 - correlation**2) * law.covariances)
        self.base = self._field(0.0)
        self.sampler = EulerMaruyama(), PowerGrid(64, 1.5), MemorylessVolatility()
        self.discretisation = ConsistentDiscretisation(PowerGrid(256, 1.35))  # fine, since KL is scored by it

    def base_law(self, start: Tensor) -> MixtureLaw:
        moved = (start.double() - self.centre) @ self.gain.mT
        return MixtureLaw(self.law.log_weights, self.law.means + moved[:, None], self.law.covariances)

    def tilted(self, strength: float) -> SharedCovarianceField:
        return self._field(strength)

    def scored_starts(self, n: int, generator: torch.Generator) -> Tensor:
        return self.source.sample(self.groups, generator).x.repeat_interleave(n // self.groups, 0)

    def _field(self, strength: float) -> SharedCovarianceField:
        law, _ = self.tilt(strength, self.centre[None])
        slope = law.covariances[0] @ torch.linalg.solve(self.law.covariances[0], self.gain)  # of one component, or 0
        return SharedCovarianceField(law, self.path, SourceConditioning(), BridgeGivenSource(), slope, self.centre)


def _regression(source: Distribution, law: MixtureLaw, correlation: float) -> tuple[Tensor, Tensor]:
    """Slope (d, d) and centre (d,) of E[x1 | x0] in x0."""
    k, d = law.means.shape[1:]
    if correlation == 0:
        return torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    if not isinstance(source, Gaussian) or k > 1 or not abs(correlation) < 1:
        raise FlowportError(
            f"correlation={correlation} needs |correlation| < 1, a Gaussian source and a target of one component: "
            "write correlation=0 for independent ends"
        )
    ends = torch.linalg.cholesky(law.covariances[0]), torch.linalg.cholesky(source.covariance.double())
    return correlation * ends[0] @ torch.linalg.inv(ends[1]), source.mean.double()
