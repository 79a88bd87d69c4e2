"""Starts and targets of a run: draws of its training split, and held-out ones that are used once each."""

import torch

from flowport.randomness import Randomness
from flowport.run.build import Run
from flowport.types import Pair


def drawn(run: Run, n: int, randomness: Randomness, device: torch.device) -> Pair:
    """n draws of the source and of the target from the training split; stored points are drawn with replacement.

    Args:
        run: Whose data are used.
        n: Number of points of each side.
        randomness: Of the draws.
        device: Of the points.
    """
    pairing = run.data.placed(device).split("train")
    return Pair(
        pairing.source.sample(n, randomness.generator("source")),
        pairing.target.sample(n, randomness.generator("target")),
    )


def held_out(run: Run, randomness: Randomness, device: torch.device) -> Pair:
    """``certified`` starts of the test split, each used once, as standard errors need, and labels of its targets.

    Args:
        run: Whose data are used; there are fewer starts where its split has fewer.
        randomness: Of the draws of analytic distributions.
        device: Of the points.
    """
    pairing, n = run.data.placed(device).split("test"), run.config.certified
    source = pairing.source.every(n, randomness.under("source"))
    target = pairing.target.every(n, randomness.under("target"))
    labels = torch.arange(len(source), device=source.x.device) % len(target)  # only labels of the target are used
    return Pair(source, target[labels])
