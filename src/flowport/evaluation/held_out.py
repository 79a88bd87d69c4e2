"""Which held-out points an evaluation compares: reference and floor of one split, and partners by name.

A distance d(translations, reference) and its floor d(real points, reference) are comparable where (1) the points of the
floor are of the same held-out law as the reference, (2) they are as many as the translations that are compared, (3)
none of them occurs in the reference, and (4) no compared translation has its true partner there. A translation without
fault then has the law of the floor, so its expected value is that of the floor. A flow that repeats training data gets
no lower value by construction: the floor is drawn from where the reference is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.data.agreement import partners
from flowport.distribution.base import Distribution, Stored
from flowport.randomness import Randomness
from flowport.types import Sample

POOL = "held out"
"""Name of the split that joins test and validation where the test split is small."""
SEARCHED = 10_000
"""Number of held-out targets among which a partner is sought, where there are more."""
FEWEST = 4
"""Least number of items of a split that is divided; fewer are the reference alone, without a floor."""


@dataclass(frozen=True)
class RealPoints:
    """Held-out target points of an evaluation.

    Args:
        reference: What translations are compared with, encoded.
        floor: Further points, none of which is in ``reference``, encoded.
        law: The distribution of which both are.
        compared: Rows of the source whose translation has no partner in ``reference``, (k,) int64; None for all.
    """

    reference: Sample
    floor: Sample
    law: Distribution
    compared: Tensor | None = None

    @property
    def told(self) -> Tensor | None:
        """Labels on which a conditional flow is conditioned: those of the floor, which its results then match."""
        return self.floor.label if len(self.floor) else self.reference.label


def real_points(target: Distribution, part: str, wanted: int, partner: Tensor, randomness: Randomness) -> RealPoints:
    """Reference and floor, without an item in common.

    An analytic target gives new draws for both. Of stored data the floor gets as many items as there are source points,
    and at most half of the split; the reference gets the rest, at most ``wanted``. Which items these are is drawn at
    random, so that two halves of independent items are independent samples. Partners of the source points come to the
    floor before others, so that as few translations as possible have their partner in the reference; those that do are
    left out of the comparison. A test split with fewer than twice as many items as there are source points is joined
    with the validation split, which is held out as well.

    Args:
        target: The target.
        part: The split, ``"test"`` or ``"validation"``.
        wanted: Largest number of points of the reference.
        partner: Item of ``target.split(part)`` that is the partner of every source point, −1 where there is none, (n,).
        randomness: Randomness of the choice.
    """
    law, n = target.split(part), len(partner)
    if not isinstance(law, Stored):
        floor = law.sample(n, randomness.under("floor").generator("draw"))
        return RealPoints(law.every(wanted, randomness.under("target")), floor, law)
    if part == "test" and law.size < 2 * n and len(law.splits.get("validation", ())):
        joined = torch.cat([law.splits["test"], law.splits["validation"]])
        law = law.with_splits({**law.splits, POOL: joined}).split(POOL)
        assert isinstance(law, Stored)
    order = torch.randperm(law.size, generator=randomness.under("floor").generator("halves"))
    is_partner = torch.zeros(law.size, dtype=torch.bool)
    is_partner[partner[partner >= 0].cpu()] = True  # items of the test split come first in the joined one
    order = order[is_partner[order].long().argsort(stable=True)]
    half = min(n, law.size // 2) if law.size >= FEWEST else 0
    chosen, others = order[: min(wanted, law.size - half)], order[law.size - half :]
    inside = torch.zeros(law.size + 1, dtype=torch.bool)  # the last entry is that of sources without a partner
    inside[chosen] = True
    compared = (~inside[partner.cpu()]).nonzero().squeeze(1).to(partner.device)
    every = half == 0 or len(compared) == n
    reference = law.draw(chosen, None)
    floor = law.draw(others, None) if half else reference[:0]
    return RealPoints(reference, floor, law, None if every else compared)


def partner_items(source: Distribution, target: Distribution) -> Tensor | None:
    """The item of the target's split that is the partner of every item of the source's split, −1 where none is.

    Partners have equal names (``flowport.data.agreement.partners``), or equal numbers where both splits correspond.

    Args:
        source: One split of the source.
        target: The same split of the target.

    Returns:
        Item numbers, (size,) int64 on the CPU; None where no item has a partner.
    """
    if not isinstance(source, Stored) or not isinstance(target, Stored):
        return None
    if source.names and target.names:
        place = torch.full((len(target.raw) + 1,), -1)
        place[target.items_of_part().cpu()] = torch.arange(target.size)
        found = place[partners(source, target)[source.items_of_part().cpu()]]  # −1 finds the last entry, which is −1
    elif source.corresponds(target):
        found = torch.arange(source.size)
    else:
        return None
    return found if bool((found >= 0).any()) else None


def retrieval_set(target: Distribution, partner: Tensor) -> tuple[Distribution, Sample | None, Tensor]:
    """The held-out targets among which partners are sought: all partners, and others at even spacing.

    Args:
        target: The split of the target.
        partner: Item of the split that is the partner of every source point, −1 where none is, (n,) int64.

    Returns:
        The split as it is observed; its items that are sought, in order, None for an analytic law; and the row of these
        that is the partner of every source point, −1 where none is, (n,) int64 on the CPU.
    """
    observed, partner = target.observed(), partner.cpu()
    if not isinstance(observed, Stored):
        return observed, None, partner
    known = partner >= 0
    spread = torch.arange(min(observed.size, SEARCHED)) * observed.size // min(observed.size, SEARCHED)
    pool = torch.cat([partner[known], spread]).unique()
    place = torch.full_like(partner, -1)
    place[known] = torch.searchsorted(pool, partner[known])
    return observed, observed.draw(pool, None), place
