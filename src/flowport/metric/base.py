"""Metrics: pure functions with a thin torchmetrics state on top."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torchmetrics import Metric as TorchMetric

from flowport.distribution.base import Distribution
from flowport.modality.base import Modality
from flowport.types import ConditionShape, Sample


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation: what was translated, into what, and what it is measured against.

    source: (n, *D) held-out source points; result: (n, *D) their translations; target: (m, *D) held-out target points;
    floor: (n, *D) further real target points disjoint from ``target``, as many as there are translations where the
    data allow, so that ``metric(floor, target)`` is what a perfect translation would score.
    times: (K+1,) and states: (K+1, n, *D) of the trajectory, as far as kept.
    velocity: (x, t) -> velocity of the field under the condition of these n sources, for path energies.
    reference_cost: W2² between large fixed draws of source and target (one number a pair of distributions), or None.
    modality: of the target.
    partner: (n, *D) the true translation of every source point, or None where nobody knows it.
    retrieved: (n, *D) the training target nearest to every source point, the baseline that learns nothing, or None.
    nfe: evaluations of the field that a translation cost.
    told: (n,) or (n, k) the label that the flow was told for every translation, or None where it is told none.
    """

    source: Sample
    result: Tensor
    target: Sample
    floor: Sample
    times: Tensor
    states: Tensor
    velocity: Callable[[Tensor, Tensor], Tensor] | None = None
    reference_cost: float | None = None
    modality: Modality | None = None
    partner: Tensor | None = None
    retrieved: Tensor | None = None
    nfe: int = 0
    told: Tensor | None = None


class Metric(TorchMetric):
    """update(outcome) any number of times (batches, ranks), then compute() -> {name: number}.

    A metric with a floor returns both ``name`` and ``name_floor``; where doing nothing is meaningful also
    ``name_untranslated``, and where learning nothing is, ``name_retrieved``. needs_reference_cost, needs_retrieval:
    whether ``outcome.reference_cost`` and ``outcome.retrieved`` must be there.
    """

    full_state_update = False
    needs_reference_cost: ClassVar[bool] = False
    needs_retrieval: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # only one process evaluates

    def check_condition(self, told: ConditionShape) -> None:
        """Asked when a run is built: raises FlowportError where the flow is not told what this metric asks for."""
        return

    def check(self, source: Distribution, target: Distribution) -> None:
        """Asked when a run is built: raises FlowportError where this metric could not measure it."""
