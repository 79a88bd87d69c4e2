"""Translate points with a trained run: forward, backward, or forward and back again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from flowport.cache import write_atomically
from flowport.data.pairing import write_pairs
from flowport.distribution.base import Distribution
from flowport.distribution.reading import read
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.run.config_checks import check_kind
from flowport.run.restore import record, restore
from flowport.run.run_folder import RunFolder
from flowport.sampling.solver.base import Trajectory
from flowport.sampling.translator import Translator
from flowport.training.averaging import AveragedModule
from flowport.types import Pair, Sample

DIRECTIONS: dict[str, Callable[[Translator, Sample, torch.Generator, Tensor | None], Trajectory]] = {
    "forward": lambda translator, points, noise, label: translator.forward(points, noise, label),
    "backward": lambda translator, points, noise, label: translator.backward(points, noise, label),
    "cycle": lambda translator, points, noise, label: translator.cycle(points, noise, label),
}

PAIRS: dict[str, Callable[[Sample, Tensor, Tensor | None], Pair]] = {
    "forward": lambda points, ends, label: Pair(points, Sample(ends, label, points.mask)),
    "backward": lambda points, ends, label: Pair(
        Sample(ends, None, points.mask, points.id), points if label is None else replace(points, label=label)
    ),
}
"""(points, their translations, the label that conditioned the flow) -> pairs. The label is the target's; a cycle pairs
nothing."""


def translate(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    """Translate points with a trained run; builds no metric and trains nothing.

    Writes translated.npy (encoded points), gallery.png, metrics.json and, for ``pairing=stored``, pairs.safetensors
    (points of source and target as the network sees them, with their labels).

    Args:
        folder: The run's, which is only read.
        overrides: See ``restore``; direction, points, input, label and part as in configs/translate.yaml.
        out: Where the results go.

    Raises:
        FlowportError: For an unknown direction, points of another shape, and a sampler that the field does not support.
    """
    if overrides.direction not in DIRECTIONS:
        raise FlowportError(f"direction={overrides.direction} is unknown: use direction=forward, backward or cycle")
    check_kind("points", overrides.points, int, 1)
    check_kind("input", overrides.input, str | None)
    check_kind("label", overrides.label, int | None, 0)
    check_kind("part", overrides.part, Literal["train", "validation", "test"])
    run = restore(folder, overrides)
    module, randomness = run.module, run.module.randomness.under("translate")
    forward = overrides.direction != "backward"
    side = module.source if forward else module.target
    points = _points(overrides.input, side.split(overrides.part), overrides.points, randomness)
    label = _label(overrides.label, module, points)
    translator = run.sampler.translator(module.ema)
    trajectory = DIRECTIONS[overrides.direction](translator, points, randomness.generator("noise"), label)
    begin, end = (side.modality.observed(x) for x in (points.x, trajectory.end))
    write_atomically(out.translated, lambda path: _save_array(path, end))
    if overrides.direction in PAIRS:
        shown = translator.field.conditioning.sampling(points, label if forward or label is not None else points.label)
        write_pairs(PAIRS[overrides.direction](points, trajectory.end, shown.label), out.pairs)
    surface = side.modality.surface()
    surface.render({"input": begin[: surface.shown], "output": end[: surface.shown]}, str(out.gallery))
    moved = (end - begin).square().flatten(1).sum(1).mean()
    numbers = {"points": len(points), "nfe": trajectory.nfe, "mean_squared_distance": float(moved)}
    numbers = {**record(folder), **numbers}
    out.write_metrics(numbers)
    return numbers


def _save_array(path: Any, x: Tensor) -> None:
    with path.open("wb") as file:  # np.save would add .npy to the name of the partial file
        np.save(file, x.cpu().numpy())


def _points(path: str | None, side: Distribution, items: int, randomness: Randomness) -> Sample:
    if path is None:
        return side.every(items, randomness)
    raw, labels = read(path, None, None)
    seen = side.observed()
    if raw.dtype == torch.uint8:
        seen.modality.accept(path, raw)
    x = seen.modality.encode(raw, None) if raw.dtype == torch.uint8 else raw.float()
    if tuple(x.shape[1:]) != tuple(seen.event_shape):
        raise FlowportError(
            f"input={path} holds points of shape {tuple(x.shape[1:])}, but this run takes {seen.event_shape}"
        )
    if not len(x):
        raise FlowportError(f"input={path} holds no points")
    if not bool(x.isfinite().all()):
        raise FlowportError(f"input={path} holds NaN or infinite values; every point must be finite")
    return Sample(side.modality.embedded(x), labels)[:items]


def _label(label: int | None, module: AveragedModule, points: Sample) -> Tensor | None:
    if label is None:
        return None
    classes = module.ema.conditioning.shape(module.source, module.target).classes
    if label >= classes:
        known = f"labels 0 to {classes - 1}" if classes else "no classes (conditioning=target_label trains with them)"
        raise FlowportError(f"label={label} is not a label that this flow was trained with: it has {known}")
    return torch.full((len(points),), label)
