"""An evaluation of a flow on held-out points: translation, metrics and a picture."""

import logging
from pathlib import Path

import torch
from scipy.io import wavfile
from torch import Tensor

from flowport.cost.squared_euclidean import squared_distances
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.wasserstein import wasserstein_2
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.sampling.sampler import Sampler
from flowport.types import Sample

logger = logging.getLogger(__name__)
SEARCHED = 10_000
"""Largest number of training targets that are searched for the nearest one."""
REHEARSED = 64
"""Largest number of points of a rehearsal of the metrics."""
SOUNDS = 4
"""Number of clips of every row of a gallery that are written as sound."""


class Evaluator:
    """Translates held-out points by a field and measures the result.

    Args:
        sampler: Solver, grid, volatility and guidance of the translation.
        metrics: Metrics by name, all measured on the same translations.
        items: Number of source points; stored data have at most all of the split.
    """

    def __init__(self, sampler: Sampler, metrics: dict[str, Metric], items: int = 4096) -> None:
        self.sampler, self.metrics, self.items = sampler, metrics, items
        self._cost: tuple[Distribution, Distribution, float] | None = None  # of the pair that was evaluated last

    def outcome(
        self, field: Field, source: Distribution, target: Distribution, randomness: Randomness, part: str = "test"
    ) -> EvaluationResult:
        """Translate held-out source points and collect what the metrics need.

        Labels of a conditional flow are those of random held-out target points. ``floor`` is drawn from the training
        split of the target.

        Args:
            field: The field.
            source: The source.
            target: The target.
            randomness: Randomness of draws and translation.
            part: The held-out split, ``"test"`` or ``"validation"``.

        Raises:
            FlowportError: When the field does not support the sampler.
        """
        randomness = randomness.under(part)
        start = source.split(part).every(self.items, randomness.under("source"))
        goal = target.split(part).every(self.items, randomness.under("target"))
        floor = target.split("train").sample(len(start), randomness.under("floor").generator("draw", 0, goal.x.device))
        generator = randomness.generator("translation", 0, start.x.device)
        label = None
        if goal.label is not None:
            drawn = torch.randint(len(goal), (len(start),), generator=generator, device=generator.device)
            label = goal.label[drawn.to(goal.label.device)]
        translator = self.sampler.translator(field)
        trajectory = translator.forward(start, generator, label, all_states=True)
        condition = field.conditioning.sampling(start, label)

        @torch.no_grad()
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return translator.field.velocity(x, t.to(x).expand(len(x)), condition)

        seen, real = _observed(start, source.split(part)), _observed(goal, target.split(part))
        return EvaluationResult(
            source=seen,
            result=target.modality.observed(trajectory.end),
            target=real,
            floor=_observed(floor, target.split("train")),
            times=trajectory.times,
            states=trajectory.states,
            velocity=velocity,
            reference_cost=self._reference_cost(source, target),
            modality=target.modality.surface(),
            partner=real.x if source.split(part).corresponds(target.split(part)) else None,
            nfe=trajectory.nfe,
            condition_label=condition.label,
            retrieved=self._retrieved(seen, target) if any(m.needs_retrieval for m in self.metrics.values()) else None,
        )

    def rehearse(self, field: Field, source: Distribution, target: Distribution, randomness: Randomness) -> set[str]:
        """Measure every metric on target points in the place of translations, before anything is trained.

        At most ``REHEARSED`` points are used. A failure counts where a run has no more points than these.

        Args:
            field: The field, which is not evaluated.
            source: The source.
            target: The target.
            randomness: Randomness of the draws.

        Returns:
            The names of all numbers, empty where a metric needs more points to be asked.

        Raises:
            FlowportError: For a metric that cannot be measured on the held-out points of this run.
        """
        draws, parts = randomness.under("rehearsal"), (source.split("test"), target.split("test"))
        n = min(self.items, REHEARSED)
        start, goal = (law.every(n, draws.under(str(k))) for k, law in enumerate(parts))
        rows = min(len(start), len(goal))
        start, goal = start[:rows], goal[:rows]
        seen, real = _observed(start, parts[0]), _observed(goal, parts[1])
        outcome = EvaluationResult(
            source=seen,
            result=real.x,
            target=real,
            floor=real,
            times=torch.tensor([0.0, 1.0]),
            states=torch.stack([start.x, goal.x]),
            velocity=lambda x, t: torch.zeros_like(x),
            reference_cost=1.0,
            modality=target.modality.surface(),
            partner=real.x if parts[0].corresponds(parts[1]) else None,
            nfe=1,
            condition_label=field.conditioning.sampling(start, goal.label).label,
            retrieved=real.x,
        )
        names, undecided = set[str](), False
        for name, metric in self.metrics.items():
            try:
                metric.reset()
                metric.update(outcome)
                found = metric.compute()
                if rows == 1 and any(not bool(value.isfinite().all()) for value in found.values()):
                    raise FlowportError("one point has no such number")
                names |= set(found)
            except FlowportError as error:
                if rows == REHEARSED:  # with more points it may be measured
                    undecided = True
                    continue
                raise FlowportError(
                    f"metric={name} cannot be measured on {rows} held-out points (evaluation_items, or all of the test "
                    f"split): {error}; give more data, or leave it out of metric=[…]"
                ) from None
            finally:
                metric.reset()
        return set() if undecided else names

    def _reference_cost(self, source: Distribution, target: Distribution) -> float | None:
        """W2² of source and target, computed once for a pair; None where no metric needs it."""
        if not any(m.needs_reference_cost for m in self.metrics.values()):
            return None
        if self._cost is None or self._cost[0] is not source or self._cost[1] is not target:
            self._cost = source, target, reference_cost(source, target)
        return self._cost[2]

    @staticmethod
    def _retrieved(start: Sample, target: Distribution) -> Tensor | None:
        """The training target nearest to each source point; None where that set is infinite or of another shape."""
        train = target.split("train").observed()
        if train.size is None or train.event_shape != tuple(start.x.shape[1:]):
            return None
        candidates = train.every(min(train.size, SEARCHED), Randomness()).x
        return candidates[squared_distances(start.x, candidates).argmin(1)]

    def measure(self, outcome: EvaluationResult) -> dict[str, float]:
        """The values of all metrics, by name.

        Args:
            outcome: The evaluation.
        """
        numbers: dict[str, float] = {}
        for name, metric in self.metrics.items():
            try:
                metric.to(outcome.result.device)
                metric.reset()
                metric.update(outcome)
                numbers.update({k: float(v) for k, v in metric.compute().items()})
            except FlowportError as error:  # a training is not lost for a number
                logger.error("metric=%s is left out: %s", name, error)
        return numbers


def reference_cost(source: Distribution, target: Distribution, points: int = 2048, draws: int = 16) -> float:
    """W2² between source and target, the mean over ``draws`` fixed draws, in squared units of the points.

    It does not depend on the seed of the run. A single draw has an error of several per cent.

    Args:
        source: The source; its test split is used.
        target: The target; its test split is used.
        points: Number of points of a draw.
        draws: Number of draws.
    """
    total = 0.0
    for k in range(draws):
        draw = Randomness(0, 0, f"/reference cost/{k}")
        x = source.split("test").every(points, draw.under("source")).x
        y = target.split("test").every(points, draw.under("target")).x
        total += float(wasserstein_2(x, y)) ** 2
    return total / draws


def _observed(sample: Sample, law: Distribution) -> Sample:
    """Points in the space of metrics and pictures; stored items without the error of an autoencoder."""
    observed = law.observed()
    if observed is law or sample.id is None:
        return sample.with_x(law.modality.observed(sample.x))
    return observed.draw(sample.id, None)


def evenly(n: int, shown: int) -> Tensor:
    """Evenly spaced rows of a set, which may be sorted, (min(n, shown),) int64.

    Args:
        n: Number of rows of the set.
        shown: Largest number of rows to show.
    """
    return torch.arange(min(n, shown)) * n // min(n, shown)


def gallery(outcome: EvaluationResult, modality: Modality, path: Path) -> Tensor:
    """A picture of source points, states of the trajectory, translations and real target points, (3, H, W) uint8.

    Columns are sorted by class where the flow is conditioned on classes. ``translation.png`` beside it has the
    translations alone, and sounds are written by ``record``.

    Args:
        outcome: The evaluation.
        modality: Modality of the states.
        path: File of the picture, .png.
    """
    last, n = len(outcome.states) - 1, len(outcome.result)
    shown = evenly(n, modality.shown)
    if outcome.condition_label is not None and outcome.condition_label.ndim == 1:
        shown = outcome.condition_label.argsort(stable=True).cpu()[shown]
    rows = {"source": outcome.source.x[shown]}
    for share in (0.25, 0.5, 0.75):
        k = round(share * last)
        if 0 < k < last:
            rows[f"t = {float(outcome.times[k]):.2f}"] = modality.observed(outcome.states[k][shown])
    rows["translation"] = outcome.result[shown]
    rows["real target"] = outcome.floor.x[: len(shown)]
    modality.surface().render({"": rows["translation"].cpu()}, str(path.with_name("translation.png")))
    record({name: rows[name][:SOUNDS] for name in ("source", "translation", "real target")}, modality.surface(), path)
    return modality.surface().render({k: v.cpu() for k, v in rows.items()}, str(path), unrelated=("real target",))


def record(rows: dict[str, Tensor], modality: Modality, picture: Path) -> None:
    """Write points as sound, <row>_<k>.wav, into a folder named as the picture; nothing for points that are not sound.

    Args:
        rows: Points (n, *D) of every row by its name.
        modality: Their modality.
        picture: File of the picture.
    """
    folder = picture.with_suffix("")
    for name, row in rows.items():
        sound = modality.sound(row.cpu())
        if sound is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for k, wave in enumerate(sound.waves):
                wavfile.write(folder / f"{name.replace(' ', '_')}_{k}.wav", sound.rate, wave.numpy())
