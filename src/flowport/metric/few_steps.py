"""The loss of quality from few steps: clouds translated by a few Euler steps, against the full translation.

References:
    Hui et al. 2025, "Not-so-optimal transport flows for 3D point cloud generation", arXiv:2502.12456 (quality of clouds
        as a function of the number of steps).
"""

from dataclasses import replace

import torch
from torch import Tensor

from flowport.cost.chamfer import chamfer_of_pairs
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, SampleSize
from flowport.metric.base import EvaluationResult
from flowport.metric.clouds import CloudDistance
from flowport.metric.path_energy import field_of
from flowport.metric.two_sample import gathered
from flowport.sampling.dynamics import FunctionProcess
from flowport.sampling.solver import Euler
from flowport.types import Sample


class FewSteps(CloudDistance):
    """Quality of clouds that are translated by ``steps`` uniform Euler steps.

    Values: ``few_chamfer``, the mean Chamfer distance to the full translations of the same sources, 0 for a flow with
    straight trajectories of constant speed; ``few_nna``, ``few_coverage`` and ``few_mmd`` of these clouds beside real
    ones, as in ``CloudDistance``, each with ``_floor``; ``few_n``. Distances are in squared units of the points.

    Args:
        steps: Number of Euler steps.
        points: Largest number of clouds of each set.
        seed: Seed of the subsets.

    Raises:
        FlowportError: For fewer than 1 step.
    """

    gap: list[Tensor]

    def __init__(self, steps: int = 8, points: SampleSize = 200, seed: int = 0) -> None:
        super().__init__(name="few", points=points, seed=seed)
        if steps < 1:
            raise FlowportError(f"metric.few_steps.steps is {steps}; it must be at least 1")
        self.steps = steps
        self.add_state("gap", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that points of the target are clouds (d, N).

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the points of the target are not clouds.
        """
        if len(target.event_shape) != 2:
            raise FlowportError(f"metric=few_steps is for clouds (d, N), not points {target.event_shape}: leave it out")

    def update(self, outcome: EvaluationResult) -> None:
        """Translate the sources of a batch by Euler steps and add the results.

        Args:
            outcome: An evaluation with a trajectory and a velocity.

        Raises:
            FlowportError: Without a velocity.
        """
        start = outcome.states[0]
        times = torch.linspace(float(outcome.times[0]), float(outcome.times[-1]), self.steps + 1).to(start)
        process = FunctionProcess(field_of(outcome, "few_steps"))
        with torch.no_grad():
            result = Euler().solve(process, start, times, torch.Generator()).end
        self.gap.append(chamfer_of_pairs(result, outcome.result))
        flat = Sample(outcome.source.x.flatten(1))  # of another shape: _untranslated is left to cloud_distance
        super().update(replace(outcome, result=result, source=flat))

    def compute(self) -> dict[str, Tensor]:
        found, gap = super().compute(), gathered(self.gap)
        assert gap is not None
        return found | {"few_chamfer": gap.mean()}
