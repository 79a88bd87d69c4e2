"""Paths of a tuned chain and of its base chain, with the log-ratio of the two along both.

Both chains have the steps, the transition variances and the noiseless last step E[x1 | x] of the base
(``flowport.finetuning.discretisation``), so that log dQ/dP is finite and exact along the paths of either. A noiseless
last step of the tuned flow's own would make KL(Q‖P) infinite.

References:
    Kappen and Ruiz 2016, "Adaptive importance sampling for control and inference", doi:10.1007/s10955-016-1446-7
        (log-ratio of controlled paths).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.discretisation import Discretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.tilted_field import TiltedField
from flowport.finetuning.two_sided import TwoSided
from flowport.reward.base import Reward
from flowport.sampling.dynamics import evaluation_mode
from flowport.tensors import noise_like
from flowport.types import Condition, Pair

BRANCHES = 16
"""Pairs of paths from every start, or for every told value, where each has a law of its own."""


@dataclass(frozen=True)
class Grouping:
    """Which rows of a batch the pairs of paths use, and which of them share a law.

    Args:
        rows: Row of the batch of every pair, (n,) int64.
        group: Number of the group of every pair, (n,) int64: pairs of one group have the same base law of results.
        groups: Number of groups.
        clustered: Whether every group is one row of the batch, repeated ``BRANCHES`` times.
        unit: What a row then stands for, in the plural: starts of a bridge, or values that the field is told.
    """

    rows: Tensor
    group: Tensor
    groups: int
    clustered: bool
    unit: str = "starts"

    @classmethod
    def of(cls, field: TiltedField, pair: Pair, paths: int | None = None) -> "Grouping":
        """The grouping of as many pairs of paths as a batch has rows, or of about ``paths`` where rows are repeated.

        Without a condition all pairs are one group; of a field told a class, those of a class. Where the field sees
        its start, is told continuous values, or is told so many classes that fewer than ``BRANCHES`` rows are left for
        each, evenly spaced rows of the batch are repeated.

        Args:
            field: The tuned field.
            pair: The batch.
            paths: Number of pairs of paths where rows are repeated, fewer where the batch has fewer than
                paths/``BRANCHES`` rows; None: as many as rows.
        """
        n, device = len(pair), pair.source.x.device
        every = torch.arange(n, device=device)
        condition = field.conditioning.sampling(pair.source, pair.target.label)
        if condition.source is None and condition.label is None:
            return cls(every, torch.zeros_like(every), 1, False)
        if condition.source is None and condition.label is not None and condition.label.ndim == 1:
            told, group = condition.label.unique(return_inverse=True)
            if bool((group.bincount() >= BRANCHES).all()):
                return cls(every, group, len(told), False)
        paths = n if paths is None else paths
        groups = max(1, min(n, paths // BRANCHES))
        group = torch.arange(groups, device=device).repeat_interleave(min(BRANCHES, paths))
        unit = "told values" if condition.source is None else "starts"
        return cls(group * n // groups, group, groups, True, unit)


@dataclass(frozen=True)
class PairedPaths:
    """Tuned and base paths, and the features of their results.

    Args:
        sides: Rewards, log-ratios and groups.
        feature: Features of the results of the tuned paths, then of the base paths, (2, n, d).
    """

    sides: TwoSided
    feature: Tensor


def paired_paths(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    discretisation: Discretisation,
    feature: Callable[[Tensor], Tensor] = torch.clone,
    paths: int | None = None,
) -> PairedPaths:
    """Simulate n paths of the tuned chain and n of its base chain, n about the rows of a batch.

    The k-th path of either chain has the condition, and where the field sees it the start, of the same row of the
    batch; noise is drawn anew for each, from noise the start too. All are simulated at once; networks and reward may be
    evaluated in pieces (``flowport.network.pieces``).

    Args:
        field: The tuned flow.
        reward: The reward.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths, on any device.
        discretisation: Steps of the chains.
        feature: Function of the results, (n, *D) to (n, …).
        paths: Number n of paths where rows are repeated (``Grouping.of``); None: as many as rows.
    """
    discretisation.accept(field.base)
    grouping = Grouping.of(field, pair, paths)
    here = pair.take(grouping.rows, grouping.rows)
    rewards, ratios, means = list[Tensor](), list[Tensor](), list[Tensor]()
    with evaluation_mode(field):
        for driven, name in ((True, "tuned"), (False, "base")):
            start, condition = _starts(field, here, generator, fresh=not driven or grouping.clustered)
            simulated = roll_out(
                discretisation,
                field.base,
                start,
                condition,
                generator,
                field,
                driven=driven,
                ends_only=True,
                title=f"certificate: steps of the paths of the {name} chain",
            )
            end = simulated.states[-1]
            rewards.append(strength * reward.value(end, condition).to(end.device).double())
            ratios.append(simulated.log_ratio.double())
            means.append(feature(end).flatten(1))
    value, log_ratio = torch.stack(rewards), torch.stack(ratios)
    sides = TwoSided(value, log_ratio, grouping.group, grouping.groups, grouping.clustered, grouping.unit)
    return PairedPaths(sides, torch.stack(means))


def _starts(field: TiltedField, pair: Pair, generator: torch.Generator, fresh: bool) -> tuple[Tensor, Condition]:
    """Starts of the paths of one chain; from noise drawn anew for the base chain, and where rows are repeated."""
    start, condition = starts(field, pair, generator)
    if fresh and condition.source is None and isinstance(field.capabilities.role, SourceIsNoise):
        noise = noise_like(pair.source.x, generator)
        start = field.path.start(noise, noise)
    return start, condition
