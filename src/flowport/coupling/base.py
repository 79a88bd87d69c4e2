"""Who goes with whom. A coupling returns indices, so labels, masks and ids stay with their points.

Hard requirement (THEORY of minibatch couplings, Pooladian et al. 2023, Tong et al. 2023): unless it declares
``keeps_marginals = False``, a coupling changes neither marginal in expectation, otherwise the flow learns wrong ends.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowport.types import Pair


@dataclass(frozen=True)
class Plan:
    """Pair row i[k] of the source with row j[k] of the target.

    i, j: (k,) int64 on the device of the pair, k = B for a batch of B and B; for a batch of n and m points k is a
    common multiple, so that every source point stands k/n times and every target point k/m times.
    order: (k, N) int64 for clouds (d, N): point n of target cloud j[k] becomes its point order[k, n]; else None.
    rotation: (k, d, d) for clouds: target cloud j[k] is turned by it; else None.
    facts: numbers worth logging (lost mass, plan entropy, iterations), by name; tensors are left on their device, so
    that nobody waits for a number that nobody reads.
    """

    i: Tensor
    j: Tensor
    facts: Mapping[str, float | Tensor] = field(default_factory=dict)
    order: Tensor | None = None
    rotation: Tensor | None = None

    def apply(self, pair: Pair, rows: Tensor | None = None) -> Pair:
        """The re-paired points; of some rows of the matching, in their order."""
        i, j, order, rotation = (
            v if v is None or rows is None else v[rows] for v in (self.i, self.j, self.order, self.rotation)
        )
        new = pair.take(i, j)  # type: ignore[arg-type]
        cloud, mask = new.target.x, new.target.mask
        if order is not None:
            at = order[:, None].expand_as(cloud)
            cloud, mask = cloud.gather(2, at), None if mask is None else mask.gather(2, at)
        if rotation is not None:
            cloud = rotation.to(cloud) @ cloud
        return Pair(new.source, replace(new.target, x=cloud, mask=mask))


class Coupling(ABC):
    """independent: the pairs stay independent draws. keeps_marginals: see above.
    needs_matched_classes: both sides must hold equal class counts (pairing=class_matched)."""

    independent: ClassVar[bool] = False
    keeps_marginals: ClassVar[bool] = True
    needs_matched_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        """Match the rows of a pair. Costs are float32 or float64 whatever the autocast. Raises FlowportError where the
        problem has no finite cost or a solver does not converge: never a silent uniform plan."""
