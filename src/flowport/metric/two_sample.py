"""The state under every metric that compares two clouds of points: translations against real target points."""

from abc import abstractmethod

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import rows, thin
from flowport.randomness import Randomness


def gathered(state: list[Tensor] | Tensor) -> Tensor | None:
    """A 'cat' state as one tensor; None if nothing was ever put in. (After a sync over ranks it is one already.)"""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else None


class TwoSample(Metric):
    """Compares the translations with the target, and beside them what a perfect and an idle translation score.

    ``distance(x, y, generator) -> {suffix: number}`` is all that a member writes. compute() returns
      ``<name>``               distance(result, target);
      ``<name>_floor``         distance(floor, target): real target points in place of translations, as many as these;
      ``<name>_untranslated``  distance(source, target), where a source point has a target point's shape;
      ``<name>_retrieved``     distance(retrieved, target), for members that need it: the nearest training targets;
      ``<name>_n``             how many points stood on the left of each.
    All take the same number of points, min(results, floor points, ``points``), because most distances between
    empirical laws have a bias that falls with n. Thinning and projections are drawn from ``seed`` alone, so values do
    not depend on batches or ranks and epochs are compared on the same draws.
    """

    result: list[Tensor]
    floor: list[Tensor]
    target: list[Tensor]
    untranslated: list[Tensor]
    retrieved: list[Tensor]

    def __init__(self, name: str, points: int, seed: int = 0) -> None:
        super().__init__()
        self.name, self.points, self.seed = name, points, seed
        for state in ("result", "floor", "target", "untranslated", "retrieved"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """(n, d) and (m, d) in float64 -> {"": distance, "_<more>": what belongs to it}."""

    def embed(self, x: Tensor) -> Tensor:
        """(n, *D) -> (n, d): the space in which points are compared; their own unless a member says otherwise."""
        return rows(x)

    def update(self, outcome: EvaluationResult) -> None:
        self.result.append(self.embed(outcome.result))
        self.target.append(self.embed(outcome.target.x))
        if len(outcome.floor):
            self.floor.append(self.embed(outcome.floor.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(self.embed(outcome.source.x))
        if self.needs_retrieval and outcome.retrieved is not None:
            self.retrieved.append(self.embed(outcome.retrieved))

    def compute(self) -> dict[str, Tensor]:
        target, result = gathered(self.target), gathered(self.result)
        if target is None or result is None or min(len(target), len(result)) < 2:
            raise FlowportError(f"the metric {self.name} needs at least 2 translations and 2 target points")
        compared = {
            "": result,
            "_floor": gathered(self.floor),
            "_untranslated": gathered(self.untranslated),
            "_retrieved": gathered(self.retrieved),
        }
        n = min(self.points, *(len(x) for x in compared.values() if x is not None))
        target = thin(target, self.points, self._generator("target"))
        values: dict[str, Tensor] = {}
        for which, x in compared.items():
            if x is not None:
                found = self.distance(thin(x, n, self._generator("points")), target, self._generator("distance"))
                values |= {f"{self.name}{more}{which}": value for more, value in found.items()}
        return values | {f"{self.name}_n": torch.tensor(n)}

    def _generator(self, purpose: str) -> torch.Generator:
        return Randomness(self.seed, scope=self.name).generator(purpose)
