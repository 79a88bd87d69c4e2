"""A problem: an exact base flow and a reward whose tilt is known at every strength."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution import Mixture
from flowport.distribution.base import Distribution
from flowport.distribution.parameter import Numbers, numbers, positive
from flowport.errors import FlowportError
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.problem.law import MixtureLaw
from flowport.problem.oracle import SharedCovarianceField
from flowport.reward import QuadraticReward
from flowport.sampling.grid import Grid
from flowport.sampling.solver import Solver
from flowport.sampling.volatility import Volatility

REACH = torch.cat([torch.linspace(0, 3, 61), torch.logspace(0.5, 3, 40)]).double()
"""Strengths, as multiples of a given one, at which a frontier is known: dense where methods should end, and far enough
for those that keep no law."""


class Problem(ABC):
    """Results of the base follow ``base_law``, given their start or not; the reward r = cᵀx − ½ xᵀQx (Q = 0: linear)
    tilts them to p e^{λr}/Z, a mixture again. The tilt has the largest E r of all laws with its KL to the base, so that
    (KL, E r) of the tilts, as λ grows, is the exact frontier of any fine-tuning.

    weights, means, deviations, turns: components of the target (see ``components``). c, q: of the reward.
    calls: of the reward that a fine-tuning may spend here. starts: of each collection of a method that learns many
    steps from one. rounds: such steps (null: as the method would). sampler: solver, grid and volatility with which
    tuned flows are scored; chain: the discretised process in which KL is measured.
    """

    groups: ClassVar[int]
    """Starts at which laws are scored: 1 where the law does not depend on the start."""
    independent: bool = True
    """Whether start and result of the base are."""
    source: Distribution
    base: SharedCovarianceField
    sampler: tuple[Solver, Grid, Volatility]
    discretisation: ConsistentDiscretisation

    def __init__(
        self,
        weights: Numbers,
        means: Sequence[Sequence[float]],
        deviations: Numbers,
        turns: Numbers,
        c: Sequence[float],
        q: Numbers,
        calls: int,
        starts: int,
        steps_per_rollout: int | None,
    ) -> None:
        spread = numbers("deviations", deviations, torch.float64)
        d = spread.shape[-1]
        for key, row in (("c", c), *(("means", m) for m in means)):
            if len(row) > d:
                inside = " in a row" if key == "means" else ""
                raise FlowportError(f"{key} has {len(row)} numbers{inside}, but the problem's points have {d}")
        padded = torch.tensor([[*m, *[0.0] * (d - len(m))] for m in means], dtype=torch.float64)
        turned = covariances(spread.expand(len(padded), d), numbers("turns", turns, torch.float64).expand(len(padded)))
        self.target = Mixture(weights, padded, turned, torch.float64)
        self.reward = QuadraticReward([*c, *[0.0] * (d - len(c))], q)
        self.calls, self.starts, self.steps_per_rollout = (
            int(positive("calls", calls)),
            int(positive("starts", starts)),
            steps_per_rollout,
        )

    @abstractmethod
    def base_law(self, start: Tensor) -> MixtureLaw:
        """Of the base's results from starts (B, d), one for all rows where it does not depend on them."""

    @abstractmethod
    def tilted(self, strength: float) -> SharedCovarianceField:
        """The exact field of the tilt."""

    @abstractmethod
    def scored_starts(self, n: int, generator: torch.Generator) -> Tensor:
        """Starts (n, d) from which tuned flows are scored: ``groups`` of them, repeated where results depend on
        them."""

    def tilt(self, strength: float, start: Tensor) -> tuple[MixtureLaw, Tensor]:
        """The law p e^{λr}/Z from starts (B, d), and log Z, (B or 1,)."""
        return self.base_law(start).tilted(strength * self.reward.c, strength * self.reward.q)

    def frontier(self, strengths: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """KL(tilt ‖ base) = λ E r − log Z and E r under the tilt at strengths (n,), means over starts, both (n,)."""
        found = []
        for strength in strengths.tolist():
            law, log_z = self.tilt(strength, start)
            reward = law.reward(self.reward.c, self.reward.q)
            found.append(torch.stack([(strength * reward - log_z).mean(), reward.mean()]))
        kl, reward = torch.stack(found, 1)
        return kl.clamp_min(0), reward


def covariances(deviations: Tensor, turns: Tensor) -> Tensor:
    """R diag(s²) Rᵀ, (K, d, d), of deviations s (K, d) and angles (K,): R turns by the angle in the plane of
    coordinates 1 and 2, then of 2 and 3, and so on to the last."""
    k, d = deviations.shape
    rotation = torch.eye(d, dtype=deviations.dtype).repeat(k, 1, 1)
    for i in range(d - 1):
        plane = torch.eye(d, dtype=deviations.dtype).repeat(k, 1, 1)
        plane[:, i, i] = plane[:, i + 1, i + 1] = turns.cos()
        plane[:, i + 1, i] = turns.sin()
        plane[:, i, i + 1] = -turns.sin()
        rotation = rotation @ plane
    whole = rotation @ torch.diag_embed(deviations**2) @ rotation.mT
    return (whole + whole.mT) / 2
