"""Whether translations find the true partners of their sources among held-out targets."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowport.data.agreement import common_classes, partners
from flowport.distribution.base import Distribution, Stored
from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import rows
from flowport.metric.two_sample import gathered
from flowport.types import Sample

CHUNK = 256
"""Number of points whose distances to all candidates are in memory at once."""
COLUMNS = ("near", "far", "rank", "mrr", "top1")
"""Numbers of a translation: distance to its partners and to a random candidate, and its ranks."""


def _weights(sample: Sample) -> Bool[Tensor, "n d"] | None:
    fits = sample.mask is not None and sample.mask.shape == sample.x.shape
    return sample.mask.reshape(len(sample), -1) if sample.mask is not None and fits else None


def mean_squares(x: Sample, y: Sample) -> tuple[Tensor, Tensor]:
    """Mean squares of x_i − y_j over the coordinates that are data in both, and the scale of their rounding, (n, m).

    Args:
        x: Points, (n, *D).
        y: Points, (m, *D).
    """
    a, b = rows(x.x), rows(y.x)
    p, q = (torch.ones_like(v) if w is None else w.double() for v, w in ((a, _weights(x)), (b, _weights(y))))
    count = (p @ q.T).clamp_min(1)
    scale = ((p * a.square()) @ q.T + p @ (q * b.square()).T) / count
    return scale - 2 * ((p * a) @ (q * b).T) / count, scale


def retrieval(x: Sample, candidates: Sample, partner: Bool[Tensor, "n m"]) -> Float[Tensor, "n 5"]:
    """How near every point is to its partners among candidates: ``COLUMNS``, (n, 5) float64.

    With the distances d_ij, the partners P_i and the others Q_i of point i: near is the mean of d over P_i, far that
    over all candidates; rank is the mean over j ∈ P_i of the share of Q_i that is nearer than j; mrr is 1/r of the rank
    r of the nearest partner in Q_i and it; top1 is whether that is 1. Equal distances count one half, and a first place
    shared by k points 1/k.

    Args:
        x: Points, (n, *D).
        candidates: Candidates, (m, *D).
        partner: Which candidates are partners, at least one in each row and not all.
    """
    found = []
    for at in torch.arange(len(x), device=x.x.device).split(CHUNK):
        gaps, scale = mean_squares(x[at], candidates)
        gaps = torch.where(gaps <= 1e-10 * scale, 0.0, gaps)
        mine = partner[at]
        near = gaps.masked_fill(~mine, math.inf).amin(1, keepdim=True)
        found.append(torch.stack(_columns(gaps, mine, near, 1e-10 * scale), 1))
    return torch.cat(found)


def _columns(gaps: Tensor, mine: Tensor, near: Tensor, close: Tensor) -> list[Tensor]:
    """The columns of some points by their mean squares, their partners, the nearest partner's and the rounding."""
    distance, others = gaps.sqrt(), (~mine).sum(1)
    tied = (gaps - near).abs() <= close
    before, level = ((gaps < near) & ~tied & ~mine).sum(1), (tied & ~mine).sum(1)
    first = (before == 0) / (1 + level / (tied & mine).sum(1).clamp_min(1))
    below = torch.stack([_below(gap, own, slack) for gap, own, slack in zip(gaps, mine, close, strict=True)])
    return [
        (distance * mine).sum(1) / mine.sum(1),
        distance.mean(1),
        below / others,
        1 / (1 + before + level / 2),
        first,
    ]


def _below(gap: Tensor, mine: Tensor, slack: Tensor) -> Tensor:
    """The mean number of others that are nearer than a partner, of one point."""
    own, rest = gap[mine][:, None], gap[~mine]
    same = (rest - own).abs() <= slack[~mine]
    return (((rest < own) & ~same).double() + 0.5 * same).sum(1).mean()


def chance_of(partner: Bool[Tensor, "n m"]) -> Float[Tensor, "n 2"]:
    """Expected mrr and top1 where the candidates are in random order, (n, 2) float64.

    The nearest of k partners among m candidates has rank r with the probability C(m − r, k − 1) / C(m, k).

    Args:
        partner: Which candidates are partners, at least one in each row.
    """
    m = partner.shape[1]
    found = dict[int, tuple[float, float]]()
    counts = partner.sum(1).tolist()
    for k in set(counts):
        share, total = k / m, 0.0  # the probability of rank 1, and then from each rank to the next
        for r in range(1, m - k + 2):
            total += share / r
            share *= (m - r - k + 1) / (m - r) if m > r else 0.0
        found[k] = total, k / m
    return torch.tensor([found[k] for k in counts], dtype=torch.float64, device=partner.device).reshape(-1, 2)


class Partners(Metric):
    """Distance to the true partner of every held-out source point, and its place among the held-out targets.

    A partner is the held-out target of the same name (or number, in paired data); where no item has one, all targets of
    the source's class are partners. Values, means over the translations that have a partner:

        partner_distance  the distance to the partner, relative to the mean distance to a held-out target; 1 is chance;
        partner_rank      the share of other targets that are nearer than the partner, 1 − AUC; chance 1/2;
        partner_mrr       the reciprocal rank of the nearest partner;
        partner_top1      the share of translations whose nearest target is a partner;
        partner_class     the share whose nearest target has the class of the source, where both sides have classes;
        _se               the standard error of each over the points;
        _chance           the value of a random order;
        _untranslated     the value of the source points, where they have the target's shape;
        partner_n         the number of translations that have a partner;
        partner_of        the number of held-out targets.

    Distances are Euclidean, over the coordinates that are data on both sides.

    References:
        Manning, Raghavan and Schütze 2008, "Introduction to information retrieval", chapter 8,
            doi:10.1017/CBO9780511809071 (evaluation of ranked retrieval).
    """

    needs_candidates = True
    found: list[Tensor]
    before: list[Tensor]
    chance: list[Tensor]
    kept: list[Tensor]
    of: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("found", "before", "chance", "kept"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.add_state("of", default=torch.tensor(0), dist_reduce_fx="max")

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that items have partners, or both sides have a class in common.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When neither is the case.
        """
        stored = isinstance(source, Stored) and isinstance(target, Stored)
        named = stored and bool((partners(source, target) >= 0).any())  # type: ignore[arg-type]
        if named or (stored and _held_out(source).corresponds(_held_out(target))):
            return
        if not stored or not (source.classes and target.classes and common_classes(source, target)):
            raise FlowportError(
                "metric=partners needs partners, files of the same name or the same items on both sides, or a class in "
                "common; these source and target have neither: leave it out of metric=[…]"
            )

    def update(self, outcome: EvaluationResult) -> None:
        """Add the places of a batch.

        Args:
            outcome: An evaluation with candidates.

        Raises:
            FlowportError: Without candidates, or where no point of it has a partner.
        """
        if outcome.candidates is None:
            raise FlowportError("metric=partners needs held-out target items, and this target is an analytic law")
        goal, label = outcome.candidates, _classes(outcome.source)
        theirs = _classes(goal)
        same = None if label is None or theirs is None else label[:, None] == theirs.to(label.device)
        partner = same
        if outcome.partner_at is not None:
            at = outcome.partner_at.to(goal.x.device)
            partner = at[:, None] == torch.arange(len(goal), device=at.device)
        if partner is None:
            raise FlowportError("metric=partners: no item of these source and target has a partner or a class")
        have = (partner.any(1) & ~partner.all(1)).nonzero().squeeze(1)
        partner = partner[have]
        if len(have) == 0:
            return
        ends = [(self.found, outcome.result)]
        if outcome.source.x.shape[1:] == goal.x.shape[1:]:
            ends.append((self.before, outcome.source.x))
        for state, x in ends:
            mask = None if outcome.source.mask is None else outcome.source.mask[have]
            points = Sample(x[have], mask=mask)
            state.append(torch.cat([retrieval(points, goal, partner), _kept(points, goal, same, have)], 1))
        self.chance.append(chance_of(partner))
        self.kept.append(torch.zeros(0) if same is None else same[have].double().mean(1))
        self.of = torch.maximum(self.of, torch.tensor(len(goal), device=self.of.device))

    def compute(self) -> dict[str, Tensor]:
        """The means, their errors and chances, by name.

        Raises:
            FlowportError: Where no point has a partner.
        """
        found, before, chance = gathered(self.found), gathered(self.before), gathered(self.chance)
        if found is None or chance is None:
            raise FlowportError("the metric partners has seen no source point with a partner")
        values = {"partner_distance": _ratio(found)[0], "partner_distance_se": _ratio(found)[1]}
        if before is not None:
            values["partner_distance_untranslated"] = _ratio(before)[0]
        half = torch.full_like(chance[:, :1], 0.5)
        expected = torch.cat([half, chance], 1)
        kept = gathered(self.kept)
        if kept is not None and len(kept) == len(found):
            expected = torch.cat([expected, kept[:, None].to(expected)], 1)
        for k, name in enumerate(("rank", "mrr", "top1", "class")[: expected.shape[1]], 2):
            values[f"partner_{name}"] = found[:, k].mean()
            values[f"partner_{name}_se"] = found[:, k].std(correction=1) / math.sqrt(len(found))
            values[f"partner_{name}_chance"] = expected[:, k - 2].mean()
            if before is not None:
                values[f"partner_{name}_untranslated"] = before[:, k].mean()
        if len(found) == 1:  # one point has no error
            values = {name: value for name, value in values.items() if not name.endswith("_se")}
        return values | {"partner_n": torch.tensor(len(found)), "partner_of": self.of.double()}


def _held_out(side: Distribution) -> Distribution:
    """The test split, in which alone items may be partners, as notes of two scores are."""
    has_one = isinstance(side, Stored) and len(side.splits.get("test", ()))
    return side.split("test") if has_one else side


def _classes(sample: Sample) -> Tensor | None:
    label = sample.label
    return label if label is not None and label.ndim == 1 and not label.is_floating_point() else None


def _kept(points: Sample, goal: Sample, same: Tensor | None, have: Tensor) -> Tensor:
    """Whether the nearest candidate has the class of the source, (n, 1) float64; 0 without classes."""
    if same is None:
        return torch.zeros(len(points), 1, dtype=torch.float64, device=points.x.device)
    blocks = torch.arange(len(points), device=points.x.device).split(CHUNK)
    nearest = torch.cat([mean_squares(points[at], goal)[0].argmin(1) for at in blocks])
    return same[have].double().gather(1, nearest[:, None].to(same.device))


def _ratio(found: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance to partners over that to random targets, and its standard error by the delta method."""
    near, far = found[:, 0], found[:, 1]
    ratio = near.mean() / far.mean().clamp_min(1e-300)
    return ratio, (near - ratio * far).std(correction=1) / (far.mean().clamp_min(1e-300) * math.sqrt(len(found)))
