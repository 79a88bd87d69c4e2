"""The base class of metrics that compare translations with real target points as two samples."""

from abc import abstractmethod

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import rows, thin
from flowport.randomness import Randomness


def gathered(state: list[Tensor] | Tensor) -> Tensor | None:
    """All batches of a 'cat' state as one tensor; None without a batch.

    Args:
        state: A list of tensors, or one tensor where torchmetrics has already concatenated them over the ranks.
    """
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else None


class TwoSample(Metric):
    """A distance between the law of the translations and the law of the target, with the values of three baselines.

    ``compute`` returns

        <name>               distance(result, target);
        <name>_floor         distance(floor, target), the value of a perfect translation: floor and target are halves of
                             one held-out split;
        <name>_untranslated  distance(source, target), where source and target points have one shape;
        <name>_retrieved     distance(retrieved, target), for members with ``needs_retrieval``;
        <name>_n             the number of points in the first argument.

    Most distances between empirical laws have a bias that falls with n, so all are taken with the same number of
    points, min(results, floor points, other points, ``points``). Translations whose true partner is among the target
    points are left out, because a floor point has none there. Subsets and projections are drawn from ``seed`` alone:
    values depend neither on batches nor on ranks, and different epochs use the same draws.

    A member provides ``distance``; one that compares features also overrides ``embed``. To add a member, see
    ``Metric``.

    Args:
        name: Prefix of the names of the values.
        points: Largest number of points of each sample.
        seed: Seed of subsets and projections.
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
        """The distance between two samples, scalars by suffix of the name.

        Args:
            x: First sample as ``embed`` returns it, usually (n, d) float64.
            y: Second sample, the target, (m, d).
            generator: Randomness of the distance, the same for every x.

        Returns:
            {"": the distance, "_<suffix>": further values}.
        """

    def embed(self, x: Tensor) -> Tensor:
        """Points in the space where they are compared, (n, d) float64; the default flattens them.

        Args:
            x: Points, (n, *D).
        """
        return rows(x)

    def update(self, outcome: EvaluationResult) -> None:
        self.result.append(self.embed(outcome.comparable(outcome.result)))
        self.target.append(self.embed(outcome.target.x))
        if len(outcome.floor):
            self.floor.append(self.embed(outcome.floor.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(self.embed(outcome.comparable(outcome.source.x)))
        if self.needs_retrieval and outcome.retrieved is not None:
            self.retrieved.append(self.embed(outcome.comparable(outcome.retrieved)))

    def compute(self) -> dict[str, Tensor]:
        """The distances of translations and baselines to the target, float64 scalars by name.

        Raises:
            FlowportError: For fewer than 2 translations or 2 target points.
        """
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
