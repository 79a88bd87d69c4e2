"""An evaluation: translate held-out points, measure the result, draw it. Training, evaluate and translate share it."""

from pathlib import Path

import torch
from scipy.io import wavfile
from torch import Tensor

from flowport.cost.squared_euclidean import squared_distances
from flowport.distribution.base import Distribution
from flowport.field.base import Field
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.transport import wasserstein_2
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.sampling.sampler import Sampler
from flowport.types import Sample

SEARCHED = 10_000
"""Training targets among which the nearest is looked for."""
SOUNDS = 4
"""Clips of every row of a gallery that are written as sound."""


class Evaluator:
    """Translates held-out points and measures the result.

    Args:
        sampler: How points are translated.
        metrics: By name; all are measured on one translation.
        items: Source points translated (stored data: at most all of the split).
    """

    def __init__(self, sampler: Sampler, metrics: dict[str, Metric], items: int = 4096) -> None:
        self.sampler, self.metrics, self.items = sampler, metrics, items
        self._cost: float | None = None  # of the one pair of distributions that is evaluated

    def outcome(
        self, field: Field, source: Distribution, target: Distribution, randomness: Randomness, part: str = "test"
    ) -> EvaluationResult:
        """Translate the held-out ``part`` of source; the floor is real target points from outside that part."""
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
        trajectory = translator.forward(start, generator, label, keep=True)
        condition = field.conditioning.sampling(start, label)

        @torch.no_grad()
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return translator.field.velocity(x, t.to(x).expand(len(x)), condition)

        if self._cost is None and any(m.needs_reference_cost for m in self.metrics.values()):
            self._cost = reference_cost(source, target)
        seen, real = _observed(start, source.split(part)), _observed(goal, target.split(part))
        return EvaluationResult(
            source=seen,
            result=target.modality.observed(trajectory.end),
            target=real,
            floor=_observed(floor, target.split("train")),
            times=trajectory.times,
            states=trajectory.states,
            velocity=velocity,
            reference_cost=self._cost,
            modality=target.modality.surface(),
            partner=real.x if source.split(part).corresponds(target.split(part)) else None,
            nfe=trajectory.nfe,
            told=condition.label,
            retrieved=self._retrieved(seen, target) if any(m.needs_retrieval for m in self.metrics.values()) else None,
        )

    @staticmethod
    def _retrieved(start: Sample, target: Distribution) -> Tensor | None:
        """The training target nearest to each source point; None where that set is endless or of another shape."""
        train = target.split("train").observed()
        if train.size is None or train.event_shape != tuple(start.x.shape[1:]):
            return None
        known = train.every(min(train.size, SEARCHED), Randomness()).x
        return known[squared_distances(start.x, known).argmin(1)]

    def measure(self, outcome: EvaluationResult) -> dict[str, float]:
        """All metrics of an outcome, flat."""
        numbers: dict[str, float] = {}
        for metric in self.metrics.values():
            metric.to(outcome.result.device)
            metric.reset()
            metric.update(outcome)
            numbers.update({k: float(v) for k, v in metric.compute().items()})
        return numbers


def reference_cost(source: Distribution, target: Distribution, points: int = 2048, draws: int = 16) -> float:
    """W2² between the true source and the true target: the mean over ``draws`` fixed draws of ``points`` points each.

    One number for a pair of distributions, whatever the run's seed. One draw alone errs by some per cent.
    """
    total = 0.0
    for k in range(draws):
        draw = Randomness(0, 0, f"/reference cost/{k}")
        x = source.split("test").every(points, draw.under("source")).x
        y = target.split("test").every(points, draw.under("target")).x
        total += float(wasserstein_2(x, y)) ** 2
    return total / draws


def _observed(sample: Sample, law: Distribution) -> Sample:
    """Points of a law as metrics and pictures see them; stored items as they are, not as a network rebuilds them."""
    observed = law.observed()
    if observed is law or sample.id is None:
        return sample.with_x(law.modality.observed(sample.x))
    return observed.draw(sample.id, None)


def gallery(outcome: EvaluationResult, modality: Modality, path: Path) -> Tensor:
    """One picture: source row, a few states on the way, translations, real targets. Returns (3, H, W) uint8.

    Where the flow is told classes, columns follow them. translation.png beside it is the row of translations alone.
    """
    last, n = len(outcome.states) - 1, len(outcome.result)
    shown = torch.arange(min(n, modality.shown)) * n // min(n, modality.shown)  # all over the set: some are sorted
    if outcome.told is not None and outcome.told.ndim == 1:
        shown = outcome.told.argsort(stable=True).cpu()[shown]
    rows = {"source": outcome.source.x[shown]}
    for share in (0.25, 0.5, 0.75):
        k = round(share * last)
        if 0 < k < last:
            rows[f"t = {float(outcome.times[k]):.2f}"] = modality.observed(outcome.states[k][shown])
    rows["translation"] = outcome.result[shown]
    rows["real target"] = outcome.floor.x[: len(shown)]
    modality.surface().render({"": rows["translation"].cpu()}, str(path.with_name("translation.png")))
    record({name: rows[name][:SOUNDS] for name in ("source", "translation", "real target")}, modality.surface(), path)
    return modality.surface().render({k: v.cpu() for k, v in rows.items()}, str(path))


def record(rows: dict[str, Tensor], modality: Modality, picture: Path) -> None:
    """Write what the rows sound like as <row>_<k>.wav into a folder named as the picture; nothing for silent points."""
    folder = picture.with_suffix("")
    for name, row in rows.items():
        sound = modality.sound(row.cpu())
        if sound is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for k, wave in enumerate(sound.waves):
                wavfile.write(folder / f"{name.replace(' ', '_')}_{k}.wav", sound.rate, wave.numpy())
