"""The contract of a problem: an exact base flow and a reward whose tilted law is known at every strength."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution import Mixture
from flowport.distribution.base import Distribution
from flowport.distribution.parameter import Numbers, numbers, positive
from flowport.errors import Checked, FlowportError
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.tilt_mass import largest_strength
from flowport.problem.law import MixtureLaw
from flowport.problem.oracle import SharedCovarianceField
from flowport.reward import QuadraticReward
from flowport.sampling.grid import Grid
from flowport.sampling.solver import Solver
from flowport.sampling.volatility import Volatility

STRENGTH_MULTIPLES = torch.cat([torch.linspace(0, 3, 61), torch.logspace(0.5, 3, 40)]).double()
"""Strengths, as multiples of a given one, at which a frontier is evaluated: dense where methods should end, and large
enough for methods that do not control the KL to the base."""


class Problem(Checked, ABC):
    """A base flow whose results have a known law p, and a reward r = cᵀx − ½ xᵀQx with a known tilt p e^{λr}/Z.

    p is a mixture of Gaussians, of all results or given the start, and so is its tilt. By the Gibbs variational
    principle the tilt has the largest E r of all laws with its KL to p, so that (KL, E r) of the tilts, as λ grows, is
    the exact frontier of fine-tuning. A member provides ``base_law``, ``tilted`` and ``scored_starts`` and sets the
    attributes.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py`` and add
    ``configs/problem/<name>.yaml`` with ``_target_``; tests/problem/test_law.py reads all configs.

    Args:
        weights: Weights of the components of the target, (K,), as of ``Mixture``.
        means: Their means, K lists of at most d numbers; missing coordinates are 0.
        deviations: Standard deviations along the axes of each component, (K, d), or (d,) for all.
        turns: Angles that rotate these axes, (K,) or one for all, in radians (``covariances``).
        c: Vector of the reward, at most d numbers; missing coordinates are 0.
        q: Symmetric matrix Q of the reward, (d, d), or a multiple of the identity; 0 for a linear reward.
        calls: Number of evaluations of the reward that a fine-tuning may use.
        starts: Number of starts per rollout for methods that take several steps per rollout.
        steps_per_rollout: Number of steps per rollout; None for that of the method.

    Attributes:
        groups: Number of different starts at which laws are scored; 1 where the law does not depend on the start.
        independent: Whether start and result of the base are independent.
        law: Law of the base's results; given a start, of its covariances.
        source: Law of the starts.
        base: The exact field of the base.
        sampler: Solver, grid and volatility with which tuned flows are sampled.
        discretisation: Discretised SDE in which KL of path laws is measured.

    Raises:
        FlowportError: For vectors of more than d numbers, and where calls or starts are not positive.
    """

    groups: ClassVar[int]
    independent: bool = True
    law: MixtureLaw
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
        if not bool((spread > 0).all()):
            raise FlowportError(f"problem.deviations={deviations} must be positive")
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
        """The law of the base's results given their starts; of one row where it does not depend on them.

        Args:
            start: Starts, (B, d).
        """

    @abstractmethod
    def tilted(self, strength: float) -> SharedCovarianceField:
        """The exact field of the tilt.

        Args:
            strength: Strength λ of the reward.
        """

    @abstractmethod
    def scored_starts(self, n: int, generator: torch.Generator) -> Tensor:
        """Starts from which tuned flows are scored, (n, d).

        Where laws depend on the start they are ``groups`` different ones, each repeated in contiguous rows.

        Args:
            n: Number of starts, a multiple of ``groups``.
            generator: Randomness of the starts.
        """

    def tilt(self, strength: float, start: Tensor) -> tuple[MixtureLaw, Tensor]:
        """The tilted law p e^{λr}/Z given starts, and log Z.

        Args:
            strength: Strength λ of the reward.
            start: Starts, (B, d).

        Returns:
            The law and log Z, each of B rows, or of one row where they do not depend on the start.
        """
        return self.base_law(start).tilted(strength * self.reward.c, strength * self.reward.q)

    def frontier(self, strengths: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """KL(tilt ‖ base) = λ E r − log Z and E r under the tilt at several strengths, means over starts.

        Strengths at which the tilt has no finite mass are left out: the frontier ends before them.

        Args:
            strengths: Strengths λ, (n,).
            start: Starts, (B, d).

        Returns:
            KL in nats and E r, each (m,) float64, of the m strengths whose tilt exists.

        Raises:
            FlowportError: Where none of them has a tilt.
        """
        found, limit = [], largest_strength(self.law.covariances, self.reward.q)
        within = [strength for strength in strengths.tolist() if strength < limit]
        if not within:
            raise FlowportError(
                f"strength={float(strengths.min()):g} has no tilt in this problem, whose reward grows faster than its "
                f"density falls: use a strength below {limit:.4g}"
            )
        for strength in within:
            law, log_z = self.tilt(strength, start)
            reward = law.reward(self.reward.c, self.reward.q)
            found.append(torch.stack([(strength * reward - log_z).mean(), reward.mean()]))
        kl, reward = torch.stack(found, 1)
        return kl.clamp_min(0), reward


def covariances(deviations: Tensor, turns: Tensor) -> Tensor:
    """Covariances R diag(s²) Rᵀ, (K, d, d), with R = R_12 R_23 … R_{d−1,d} and R_ij the rotation of the plane (i, j).

    Args:
        deviations: Standard deviations s, (K, d).
        turns: Angle of all rotations of a component, (K,), in radians.
    """
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
