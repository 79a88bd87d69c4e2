"""Couplings: joint laws π(x0, x1) of source and target, drawn by re-pairing the points of a batch.

A coupling returns indices, so that labels, masks and ids stay with their points. Unless it declares
``keeps_marginals = False``, it changes neither marginal in expectation: otherwise the flow learns wrong end points.

References:
    Pooladian et al. 2023, "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", arXiv:2304.14772.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowport.errors import Checked
from flowport.types import Pair


@dataclass(frozen=True)
class Plan:
    """A matching of the points of a batch: row i[k] of the source is paired with row j[k] of the target.

    Args:
        i, j: Row indices, (k,) int64, on the device of the pair. k = B for batches of B and B points. For n and m
            points k = lcm(n, m); a coupling that keeps the marginals then uses, in expectation, every source point k/n
            times and every target point k/m times.
        facts: Numbers to log by name (cost, lost mass, plan entropy, iterations). Tensors stay on their device, so that
            logging them forces no synchronisation.
        order: Permutations (k, N), int64, for clouds (d, N): target cloud j[k] becomes ``cloud[:, order[k]]``. None
            leaves the order unchanged.
        rotation: Rotation matrices (k, d, d) for clouds, applied to target cloud j[k]. None leaves it unchanged.
    """

    i: Tensor
    j: Tensor
    facts: Mapping[str, float | Tensor] = field(default_factory=dict)
    order: Tensor | None = None
    rotation: Tensor | None = None

    def apply(self, pair: Pair, rows: Tensor | None = None) -> Pair:
        """The re-paired points of a pair, target clouds permuted and rotated.

        Args:
            pair: The pair that the plan was computed for.
            rows: Rows of the plan, (r,) int64, in the order of the result; None for all k.

        Returns:
            A pair of r (or k) rows.
        """
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


class Coupling(Checked, ABC):
    """A joint law π(x0, x1) of source and target, drawn by matching the points of a batch.

    A member provides ``__call__``, draws every random number from the generator it is given and does not change the
    pair. Unless ``keeps_marginals`` is False, the expected law of the re-paired sources is p0 and that of the targets
    p1, for every batch size.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/coupling/<name>.yaml`` with ``_target_`` and list it in ``COUPLINGS`` of tests/zoo.py, over which the
    tests of tests/laws run.

    Attributes:
        independent: Whether points keep the partner that the pairing drew, so that independent draws stay independent.
        label_aware: Whether sources stay independent of the target's label, or of it given their own class, so that a
            flow conditioned on the target's label may start from p0.
        keeps_marginals: Whether both marginals are unchanged in expectation.
        needs_matched_classes: Whether both sides of a batch must hold equal class counts (pairing=class_matched).
    """

    independent: ClassVar[bool] = False
    label_aware: ClassVar[bool] = False
    keeps_marginals: ClassVar[bool] = True
    needs_matched_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        """Match the rows of a pair.

        Args:
            pair: Source and target points, n and m rows.
            generator: Random generator, on any device.

        Returns:
            The plan, on the device of the pair. Costs are float32 or float64, also under autocast.

        Raises:
            FlowportError: When the cost is not finite or a solver does not converge.
        """
