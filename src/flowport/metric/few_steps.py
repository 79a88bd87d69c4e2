"""What few steps cost: how far Euler's method with eight of them comes from the whole translation."""

from dataclasses import replace

import torch
from torch import Tensor

from flowport.cost.chamfer import chamfer_of_pairs
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult
from flowport.metric.clouds import CloudDistance
from flowport.metric.energy import Velocity, field_of
from flowport.metric.two_sample import gathered
from flowport.types import Sample


@torch.no_grad()
def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """x at the last of the times: x ← x + (t' − t) v(x, t) from each to the next."""
    for t, ahead in zip(times[:-1], times[1:], strict=True):
        x = x + (ahead - t).to(x) * velocity(x, t.to(x.device).expand(len(x)))
    return x


class FewSteps(CloudDistance):
    """Translations by ``steps`` equal Euler steps: ``few_chamfer``, the mean Chamfer distance to the translations that
    were evaluated (0 for a straight flow at constant speed), and ``few_nna`` with its floor, 1-nearest-neighbour
    accuracy of theirs beside real clouds, with ``few_coverage`` and ``few_mmd``. Squared units of the points.

    Raises FlowportError without a velocity, and for points that are not clouds. (Compare "cd8/50": what alignment is
    for.)
    """

    gap: list[Tensor]

    def __init__(self, steps: int = 8, points: int = 200, seed: int = 0) -> None:
        super().__init__(name="few", points=points, seed=seed)
        if steps < 1:
            raise FlowportError(f"metric.few_steps.steps is {steps}; it must be at least 1")
        self.steps = steps
        self.add_state("gap", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
        if len(target.event_shape) != 2:
            raise FlowportError(f"metric=few_steps is for clouds (d, N), not points {target.event_shape}: leave it out")

    def update(self, outcome: EvaluationResult) -> None:
        times = torch.linspace(float(outcome.times[0]), float(outcome.times[-1]), self.steps + 1, dtype=torch.float64)
        few = euler(field_of(outcome, "few_steps"), outcome.states[0], times)
        self.gap.append(chamfer_of_pairs(few, outcome.result))
        nobody = Sample(outcome.source.x.flatten(1))  # cloud_distance has the untranslated clouds
        super().update(replace(outcome, result=few, source=nobody))

    def compute(self) -> dict[str, Tensor]:
        found, gap = super().compute(), gathered(self.gap)
        assert gap is not None
        return found | {"few_chamfer": gap.mean()}
