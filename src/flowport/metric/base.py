"""The contract of a metric: a torchmetrics state that accumulates evaluations of a flow and returns named numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torchmetrics import Metric as TorchMetric

from flowport.distribution.base import Distribution
from flowport.errors import Checked
from flowport.modality.base import Modality
from flowport.types import ConditionShape, Sample


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation of a flow: source points, their translations, held-out target points and the trajectory.

    Args:
        source: Held-out source points, n rows of (n, *D).
        result: Their translations, (n, *D).
        target: Held-out target points, m rows of (m, *D).
        floor: Further real target points of the same held-out split, none of which is in ``target``, as many as
            translations where the data allow; ``metric(floor, target)`` is the value of a perfect translation.
        times: Times of the trajectory, (K+1,), as far as recorded.
        states: States of the trajectory, (K+1, n, *D), encoded.
        velocity: (x, t) -> velocity of the field under the condition of these n sources; None without a field.
        reference_cost: W2² between fixed draws of source and target, in squared units of the points; None where no
            metric needs it.
        modality: Modality of the target in the space of metrics and pictures.
        partner: True translation of every source point, (n, *D); None where it is unknown.
        retrieved: Training target nearest to every source point, (n, *D), a baseline without learning; None where no
            metric needs it or the training targets cannot be searched.
        nfe: Number of evaluations of the field per translation.
        condition_label: Label that each translation is conditioned on, (n,) or (n, k); None without a label.
        compared: Rows of source and result whose partner is not in ``target``, (k,) int64, which alone are compared
            with ``target`` as a sample; None for all.
        candidates: Held-out target items among which partners are sought, (m, *D); None where no metric needs them or
            the target is an analytic law.
        partner_at: Row of ``candidates`` that is the partner of every source point, −1 where none is, (n,) int64; None
            where no item of these data has one.
        back: Rows (k,) of the results -> the ends of their translations back to the source, encoded, (k, *D); None
            where the flow cannot be run backward without noise.
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
    condition_label: Tensor | None = None
    compared: Tensor | None = None
    back: Callable[[Tensor], Tensor] | None = None
    candidates: Sample | None = None
    partner_at: Tensor | None = None

    def comparable(self, x: Tensor) -> Tensor:
        """The rows of ``compared``.

        Args:
            x: A row per source point, (n, …).
        """
        return x if self.compared is None else x[self.compared]


class Metric(Checked, TorchMetric):
    """A number, or several, that measures translations against held-out data.

    ``update(outcome)`` takes an ``EvaluationResult``, once or in several batches; ``compute()`` returns the values by
    name, each a scalar tensor. One call with all points and several calls with parts of them give the same values.
    Points are converted to float64, also under autocast. Names: ``<name>_floor`` is the value of real target points in
    place of the translations, ``<name>_untranslated`` that of the source points, ``<name>_retrieved`` that of the
    nearest training targets, and ``<name>_n`` the number of points.

    To add a member: subclass this class, or ``TwoSample`` for a distance between two samples, in a new module of this
    folder, export it in ``__init__.py``, add ``configs/metric/<name>.yaml`` with ``# @package metric.<name>`` and
    ``_target_`` (``_partial_: true`` where it takes ``classifier`` and ``name``), and list it in ``MEMBERS`` of
    tests/metric/test_states.py.

    Attributes:
        needs_reference_cost: Whether ``outcome.reference_cost`` is required.
        needs_retrieval: Whether ``outcome.retrieved`` is required.
        needs_candidates: Whether ``outcome.candidates`` is required.
    """

    full_state_update = False
    needs_reference_cost: ClassVar[bool] = False
    needs_retrieval: ClassVar[bool] = False
    needs_candidates: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)  # only one process evaluates

    def check_condition(self, shape: ConditionShape) -> None:
        """Check, when a run is built, the condition of the flow; the default accepts all.

        Args:
            shape: The kinds of condition that the network takes.

        Raises:
            FlowportError: When the flow lacks the condition that this metric needs.
        """
        return

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check, when a run is built, that the metric is defined for source and target; the default accepts all.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When the metric is not defined for them.
        """
