"""An evaluation of a flow on held-out points: translation, metrics and a picture."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowport.cache import content_hash, kept_number
from flowport.cost.squared_euclidean import squared_distances
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.evaluation.held_out import partner_items, real_points, retrieval_set
from flowport.evaluation.items import ItemTable, item_numbers, item_table
from flowport.field.base import Field
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.wasserstein import wasserstein_2
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.sampling.sampler import Sampler
from flowport.tensors import float32_products
from flowport.types import Sample

logger = logging.getLogger(__name__)
SEARCHED = 10_000
"""Largest number of training targets that are searched for the nearest one."""
REHEARSED = 64
"""Largest number of points of a rehearsal of the metrics."""
REFERENCE_VERSION = 1
"""Raised when the reference cost is computed otherwise, so that numbers of earlier versions are not read."""
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

    @float32_products(tf32=False)
    def outcome(
        self, field: Field, source: Distribution, target: Distribution, randomness: Randomness, part: str = "test"
    ) -> EvaluationResult:
        """Translate held-out source points and collect what the metrics need.

        Labels of a conditional flow are those of the floor, whose law its results then have. Of the held-out target one
        half is the reference and the other one the floor, see ``flowport.evaluation.held_out``.

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
        partner = _partners_of(start, source.split(part), target.split(part))
        real = real_points(target, part, self.items, partner, randomness)
        generator = randomness.generator("translation")
        label = _cycled(real.told, len(start))
        translator = self.sampler.translator(field)
        trajectory = translator.forward(start, generator, label, all_states=True)
        condition = field.conditioning.sampling(start, label)

        @torch.no_grad()
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return translator.field.velocity(x, t.to(x).expand(len(x)), condition)

        def back(rows: Tensor) -> Tensor:
            some = start[rows]
            ends, labels = Sample(trajectory.end[rows], mask=some.mask), None if label is None else label[rows]
            return translator.backward(ends, randomness.generator("back"), labels, some).end

        seen, goal = _observed(start, source.split(part)), _observed(real.reference, real.law)
        return EvaluationResult(
            source=seen,
            result=target.modality.observed(trajectory.end),
            target=goal,
            floor=_observed(real.floor, real.law) if len(real.floor) else goal[:0],
            times=trajectory.times,
            states=trajectory.states,
            velocity=velocity,
            reference_cost=self._reference_cost(source, target),
            modality=target.modality.surface(),
            partner=_items(target.split(part), partner) if bool((partner >= 0).all()) else None,
            nfe=trajectory.nfe,
            condition_label=condition.label,
            retrieved=self._retrieved(seen, target) if any(m.needs_retrieval for m in self.metrics.values()) else None,
            compared=real.compared,
            back=back if translator.reversible else None,
            **self._sought(target.split(part), partner),
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
        start = parts[0].every(n, draws.under("source"))
        partner = _partners_of(start, *parts)
        real = real_points(target, "test", n, partner, draws)
        goal, seen = _observed(real.reference, real.law), _observed(start, parts[0])
        rows = min(len(start), len(goal))
        result, end = _cycled(goal.x, len(start)), _cycled(real.reference.x, len(start))
        assert result is not None and end is not None
        outcome = EvaluationResult(
            source=seen,
            result=result,
            target=goal,
            floor=_observed(real.floor, real.law) if len(real.floor) else goal[:0],
            times=torch.tensor([0.0, 1.0]),
            states=torch.stack([start.x, end]),
            velocity=lambda x, t: torch.zeros_like(x),
            reference_cost=1.0,
            modality=target.modality.surface(),
            partner=_items(parts[1], partner) if bool((partner >= 0).all()) else None,
            nfe=1,
            condition_label=field.conditioning.sampling(start, _cycled(real.told, len(start))).label,
            retrieved=result,
            compared=real.compared,
            back=(lambda rows: start.x[rows]) if self.sampler.translator(field).reversible else None,
            **self._sought(parts[1], partner),
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
        names |= set(item_numbers(item_table(outcome, *parts, self._classifier()), dict.fromkeys(names, 0.0)))
        return set() if undecided else names

    @float32_products(tf32=False)
    def per_item(
        self, outcome: EvaluationResult, source: Distribution, target: Distribution, part: str = "test"
    ) -> ItemTable:
        """The numbers of every item of an evaluation.

        Args:
            outcome: The evaluation.
            source: Its source.
            target: Its target.
            part: Its split.
        """
        return item_table(outcome, source.split(part), target.split(part), self._classifier())

    def _classifier(self) -> nn.Module | None:
        """The classifier of a metric that has one; None where none has."""
        parts = (dict(metric.named_children()).get("classifier") for metric in self.metrics.values())
        return next((part for part in parts if part is not None), None)

    def _reference_cost(self, source: Distribution, target: Distribution) -> float | None:
        """W2² of source and target, computed once for a pair; None where no metric needs it."""
        if not any(m.needs_reference_cost for m in self.metrics.values()):
            return None
        if self._cost is None or self._cost[0] is not source or self._cost[1] is not target:
            self._cost = source, target, reference_cost(source, target)
        return self._cost[2]

    def _sought(self, target: Distribution, partner: Tensor) -> dict[str, Any]:
        """What metrics of partners need, by the fields of an ``EvaluationResult``; nothing where there are none."""
        if not any(m.needs_candidates for m in self.metrics.values()):
            return {}
        _, candidates, place = retrieval_set(target, partner)
        return {"candidates": candidates, "partner_at": place if bool((place >= 0).any()) else None}

    @staticmethod
    def _retrieved(start: Sample, target: Distribution) -> Tensor | None:
        """The training target nearest to each source point; None where that set is infinite or of another shape."""
        train = target.split("train").observed()
        if train.size is None or train.event_shape != tuple(start.x.shape[1:]):
            return None
        candidates = train.every(min(train.size, SEARCHED), Randomness()).x
        return candidates[squared_distances(start.x, candidates).argmin(1)]

    @float32_products(tf32=False)
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

    It does not depend on the seed of the run. A single draw has an error of several per cent. It is computed once for a
    pair and kept in the cache of this user, under a hash of the points that are drawn; of several processes that ask at
    once, one computes it.

    Args:
        source: The source; its test split is used.
        target: The target; its test split is used.
        points: Number of points of a draw.
        draws: Number of draws.
    """

    def drawn(k: int) -> tuple[Tensor, Tensor]:
        draw = Randomness(0, 0, f"/reference cost/{k}")
        x = source.split("test").every(points, draw.under("source")).x
        return x, target.split("test").every(points, draw.under("target")).x

    def computed() -> float:
        return sum(float(wasserstein_2(*drawn(k))) ** 2 for k in range(draws)) / draws

    content = content_hash(x for k in range(draws) for x in drawn(k))
    return kept_number("reference_cost", f"{REFERENCE_VERSION}-{content}", computed)


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


def _items(law: Distribution, index: Tensor) -> Tensor:
    """Stored items of a split as they are observed, (n, *D)."""
    return _observed(law.draw(index, None), law).x


def _partners_of(start: Sample, source: Distribution, target: Distribution) -> Tensor:
    """The item of the target's split that is the partner of every source point, −1 where none is, (n,) int64."""
    found = partner_items(source, target)
    if found is None or start.id is None:
        return torch.full((len(start),), -1, device=start.x.device)
    return found[start.id.cpu()].to(start.x.device)


def _cycled(values: Tensor | None, n: int) -> Tensor | None:
    """n values in the order of the given ones, from the first one on again where these are fewer; None for None."""
    return None if values is None else values[torch.arange(n, device=values.device) % len(values)]


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
    rows["real target"] = torch.cat([outcome.floor.x, outcome.target.x])[: len(shown)]
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
            from scipy.io import wavfile

            folder.mkdir(parents=True, exist_ok=True)
            for k, wave in enumerate(sound.waves):
                wavfile.write(folder / f"{name.replace(' ', '_')}_{k}.wav", sound.rate, wave.numpy())
