"""Normalisation constants of modalities, measured once on the training data of a run.

The numbers belong to the run, not to the data: ``flowport.run.build`` writes them into the config of the run, where
resume, evaluate and translate read exactly the same values, even if the data files have changed since.
"""

import logging

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.randomness import Randomness

logger = logging.getLogger(__name__)
DIGITS, CHUNK = 6, 256
"""Significant digits of the constants, and number of items encoded at once."""


def moments(sides: list[Distribution]) -> tuple[float, float]:
    """Mean and standard deviation of all coordinates of one training epoch of several distributions, without padding.

    Args:
        sides: Distributions of stored data, whose training points are pooled.

    Raises:
        FlowportError: When a distribution has no stored training set.
    """
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
    """Values of the options of the two modalities that are null, measured on the training data.

    Two sides with the same class of modality are measured together, so that they share one normalisation and a
    difference in level between them is preserved.

    Args:
        source: Source distribution.
        target: Target distribution.

    Returns:
        Values by side ("source", "target") and option, for sides with an option that is null; rounded to 6 digits.

    Raises:
        FlowportError: When two sides with the same class of modality have different options null, or all training
            points are equal.
    """
    sides = {"source": source, "target": target}
    wanted = {name: side.modality.unmeasured() for name, side in sides.items()}
    together = type(source.modality) is type(target.modality)
    if together and wanted["source"] != wanted["target"]:
        nulls = " and ".join(f"{name}.modality leaves {', '.join(w) or 'nothing'} null" for name, w in wanted.items())
        raise FlowportError(f"{nulls}, but both sides share one normalisation: leave the same options null on both")
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
            values = sides[name].modality.measured_values(mean, std)
            found[name] = {option: float(f"{value:.{DIGITS}g}") for option, value in values.items()}
    if found:
        numbers = [f"{name}.modality.{o}={v}" for name, values in found.items() for o, v in values.items()]
        logger.info("measured on the training data: %s", ", ".join(numbers))
    return found
