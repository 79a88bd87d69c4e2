"""Problems whose flow starts from data: a bridge conditioned on its start, and a tilt for every start."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.capabilities import ConditionedBridge
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
    """Flow from any source to a mixture of Gaussians on a Brownian bridge, conditioned on its start x0.

    Tuned flows are scored by the SDE. With a correlation ρ ≠ 0, Cov(x0, x1) = ρ L0 L1ᵀ with Cholesky factors L of a
    Gaussian source N(m0, S0) and of a target of one component N(m, S). Then x1 given x0 is N(m + ρ L1 L0⁻¹(x0 − m0), (1
    − ρ²) S), which depends on the start.

    Args:
        source: Law of the starts; Gaussian where ρ ≠ 0.
        weights: Weights of the components of the target, (K,).
        means: Their means, K lists of at most d numbers.
        deviations: Standard deviations along the axes of each component, (K, d), or (d,) for all.
        turns: Angles that rotate these axes, (K,) or one for all, in radians.
        c: Vector of the reward, at most d numbers.
        q: Symmetric matrix Q of the reward, (d, d), or a multiple of the identity.
        correlation: ρ, in (−1, 1); 0 for independent ends.
        noise: Noise of the bridge, as of ``BrownianBridge``.
        calls: Number of evaluations of the reward that a fine-tuning may use.
        starts: Number of starts per rollout for methods that take several steps per rollout.
        steps_per_rollout: Number of steps per rollout; None for that of the method.

    Raises:
        FlowportError: For a correlation other than 0 between other laws, or outside (−1, 1).
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
        self.discretisation = ConsistentDiscretisation(PowerGrid(256, 1.35))  # fine, because KL is measured on it

    def base_law(self, start: Tensor) -> MixtureLaw:
        moved = (start.double() - self.centre) @ self.gain.mT
        return MixtureLaw(self.law.log_weights, self.law.means + moved[:, None], self.law.covariances)

    def tilted(self, strength: float) -> SharedCovarianceField:
        return self._field(strength)

    def scored_starts(self, n: int, generator: torch.Generator) -> Tensor:
        return self.source.sample(self.groups, generator).x.repeat_interleave(n // self.groups, 0)

    def _field(self, strength: float) -> SharedCovarianceField:
        law, _ = self.tilt(strength, self.centre[None])
        slope = law.covariances[0] @ torch.linalg.solve(self.law.covariances[0], self.gain)  # one component, or gain 0
        return SharedCovarianceField(law, self.path, SourceConditioning(), ConditionedBridge(), slope, self.centre)


def _regression(source: Distribution, law: MixtureLaw, correlation: float) -> tuple[Tensor, Tensor]:
    """Slope (d, d) and centre (d,) of the regression E[x1 | x0], affine in x0."""
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
