"""What a modality's options leave null, measured once on the training data of a run.

The numbers belong to the run, not to the data: ``experiment.sides`` writes them into the run's config, so resume,
evaluate and translate read them there, bit by bit, whatever became of the files since.
"""

import logging

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.randomness import Randomness

logger = logging.getLogger(__name__)
DIGITS, CHUNK = 6, 256
"""Significant digits that are kept, and items encoded at once."""


def moments(sides: list[Distribution]) -> tuple[float, float]:
    """Mean and standard deviation of all numbers of the points of one training epoch of all sides, without padding."""
    count, total, squares = 0, 0.0, 0.0
    for side in sides:
        train, randomness = side.split("train"), Randomness(0, 0, "/normalisation")
        if train.size is None:
            raise FlowportError(
                f"{type(side).__name__} has no training set to measure a normalisation on: give the numbers"
            )
        for start in range(0, train.size, CHUNK):
            sample = train.items(start, min(CHUNK, train.size - start), randomness)
            x = (sample.x if sample.mask is None else sample.x[sample.mask]).double()
            count, total, squares = count + x.numel(), total + float(x.sum()), squares + float(x.square().sum())
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5


def measured(source: Distribution, target: Distribution) -> dict[str, dict[str, float]]:
    """Side ("source", "target") -> option of its modality -> value; only of sides that leave an option null.

    Two sides of one modality are measured together, so that they share one normalisation and a difference in level
    stays one. Raises FlowportError where only one of the two leaves an option null, and where all points are equal.
    """
    sides = {"source": source, "target": target}
    wanted = {name: side.modality.unknown() for name, side in sides.items()}
    together = type(source.modality) is type(target.modality)
    if together and wanted["source"] != wanted["target"]:
        told = " and ".join(f"{name}.modality leaves {', '.join(w) or 'nothing'} null" for name, w in wanted.items())
        raise FlowportError(f"{told}, but both sides share one normalisation: leave the same options null on both")
    found: dict[str, dict[str, float]] = {}
    for names in [list(sides)] if together else [[name] for name in sides]:
        if not wanted[names[0]]:
            continue
        mean, std = moments([sides[name] for name in names])
        if not std > 0:
            raise FlowportError(
                f"all training points of {' and '.join(names)} are equal: there is nothing to normalise by"
            )
        for name in names:
            values = sides[name].modality.settled(mean, std)
            found[name] = {option: float(f"{value:.{DIGITS}g}") for option, value in values.items()}
    if found:
        numbers = [f"{name}.modality.{o}={v}" for name, values in found.items() for o, v in values.items()]
        logger.info("measured on the training data: %s", ", ".join(numbers))
    return found
