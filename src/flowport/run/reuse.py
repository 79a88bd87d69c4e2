"""What is done with a trained run: measure it again, or carry points along it. The run's folder is only read."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from flowport.data.pairing import write_pairs
from flowport.distribution.base import Density, Distribution, Stored
from flowport.distribution.reading import read
from flowport.errors import FlowportError
from flowport.field import PathTransformedField
from flowport.randomness import Randomness
from flowport.run import experiment
from flowport.run.config_checks import check_kind, check_values
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver.base import Trajectory
from flowport.sampling.translator import Translator
from flowport.training.averaging import AveragedModule
from flowport.types import Pair, Sample

OVERRIDES = ("solver", "grid", "volatility", "guidance", "reward", "metric", "evaluation_items", "seed", "threads")
"""Keys of evaluate and translate that replace the run's own."""

DIRECTIONS: dict[str, Callable[[Translator, Sample, torch.Generator, torch.Tensor | None], Trajectory]] = {
    "forward": lambda translator, points, noise, label: translator.forward(points, noise, label),
    "backward": lambda translator, points, noise, label: translator.backward(points, noise, label),
    "cycle": lambda translator, points, noise, label: translator.cycle(points, noise, label),
}

PAIRS: dict[str, Callable[[Sample, torch.Tensor, torch.Tensor | None], Pair]] = {
    "forward": lambda points, ends, told: Pair(points, Sample(ends, told, points.mask)),
    "backward": lambda points, ends, told: Pair(
        Sample(ends, None, points.mask, points.id), points if told is None else replace(points, label=told)
    ),
}
"""(points, where they were carried, the label that the flow was told) -> pairs. A label that is told is the target's; a
cycle pairs nothing."""


def evaluate_again(folder: Path, changes: DictConfig, out: Path) -> dict[str, Any]:
    """Measure a trained run with other samplers or metrics; writes metrics.json and gallery.png into ``out``.

    ``changes.nfe``: as many steps as cost at most so many evaluations of the field (and at least one step).
    """
    run, numbers = restored(folder, changes)
    nfe = changes.get("nfe")
    check_kind("nfe", nfe, int | None, 1)
    if nfe is not None:
        run.evaluation.grid.steps = run.evaluation.solver.steps(nfe)
    numbers.update(experiment.evaluate(run, out, torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    experiment.write_json(out / "metrics.json", numbers)
    return numbers


def likelihood(folder: Path, overrides: DictConfig, out: Path) -> dict[str, Any]:
    """How likely a trained run, unguided, finds held-out points of its target; writes metrics.json into ``out``.

    test/nll: −log p in nats a point, mean and standard error over items; for data of finitely many levels of the raw
    items as the data set holds them (resized images: the resized bytes), an upper bound by uniform dequantisation,
    and test/bits_per_dim = nll/(d log 2). test/nll_floor: the mean of the target's own −log p, where it has a density.
    Points, noise and probes are those of the seed, whatever the solver.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, facts = restored(folder, overrides)
    module, evaluation, randomness = run.module.to(device), run.evaluation, run.module.randomness.under("likelihood")
    model = Likelihood(
        module.ema, module.source.to(device), evaluation.solver, evaluation.grid, experiment.make(overrides.divergence)
    )
    part = run.data.placed(device).target.split("test")
    points, volume = part.every(evaluation.items, randomness.under("target")), None
    if isinstance(part, Stored):
        assert points.id is not None
        raw, _ = part.taken(part.items_of_part()[points.id], None)
        x, volume = part.modality.dequantised(raw.to(device), randomness.generator("dequantisation", 0, device))
        points = points.with_x(x)
    began = time.perf_counter()
    found, evaluations = model.log_prob(points, randomness.generator("probes", 0, device))
    nats, share = -found.double() - (volume or 0.0), math.log(2) * points.x[0].numel()
    error = float(nats.std()) / math.sqrt(len(nats))
    numbers = {"nll": float(nats.mean()), "nll_se": error}
    if volume is not None:
        numbers |= {"bits_per_dim": float(nats.mean()) / share, "bits_per_dim_se": error / share}
    if isinstance(part, Density):
        numbers["nll_floor"] = -float(part.log_prob(points.x).mean())
    facts |= {f"test/{name}": value for name, value in numbers.items()}
    facts |= {"points": len(nats), "nfe": evaluations, "seconds": round(time.perf_counter() - began, 2)}
    experiment.write_json(out / "metrics.json", facts)
    return facts


def restored(folder: Path, changes: DictConfig) -> tuple[experiment.Run, dict[str, Any]]:
    """A run under the overrides of evaluate or translate, and the record of whose weights they are.

    Raises FlowportError for weights that are neither ema nor raw, for another path where one of the two is a bridge,
    and whatever ``restore`` refuses.
    """
    if changes.weights not in ("ema", "raw"):
        raise FlowportError(f"weights={changes.weights} is unknown: use weights=ema or weights=raw")
    kept = {k: v for k, v in changes.items() if v is not None and k in OVERRIDES}
    run, path = experiment.restore(folder, OmegaConf.create(kept))
    if changes.weights == "raw":
        run.module.ema = run.module.field
    if changes.get("path") is not None:
        check_values(OmegaConf.create({"path": changes.path}))
        run.module.ema = PathTransformedField(run.module.ema, experiment.make(changes.path))
    return run, {"base": str(folder), "base/checkpoint": sha256(path.read_bytes()).hexdigest()[:16]}


def translate(folder: Path, overrides: DictConfig, out: Path) -> dict[str, Any]:
    """Carry points along a trained run: writes translated.npy (encoded points), gallery.png and, for
    ``pairing=stored``,
    pairs.safetensors (points of source and target as the network sees them, with their labels) into ``out``.

    Raises FlowportError for an unknown direction, points of another shape, and a sampler that the field cannot serve.
    """
    if overrides.direction not in DIRECTIONS:
        raise FlowportError(f"direction={overrides.direction} is unknown: use direction=forward, backward or cycle")
    check_kind("points", overrides.points, int, 1)
    check_kind("input", overrides.input, str | None)
    check_kind("label", overrides.label, int | None, 0)
    check_kind("part", overrides.part, str)
    run, facts = restored(folder, overrides)
    module, randomness = run.module, run.module.randomness.under("translate")
    forward = overrides.direction != "backward"
    side = module.source if forward else module.target
    points = _points(overrides.input, side.split(overrides.part), overrides.points, randomness)
    label = _label(overrides.label, module, points)
    translator = run.evaluation.translator(module.ema)
    trajectory = DIRECTIONS[overrides.direction](translator, points, randomness.generator("noise"), label)
    begin, end = (side.modality.observed(x) for x in (points.x, trajectory.end))
    np.save(out / "translated.npy", end.cpu().numpy())
    if overrides.direction in PAIRS:
        told = translator.field.conditioning.sampling(points, label if forward or label is not None else points.label)
        write_pairs(PAIRS[overrides.direction](points, trajectory.end, told.label), out / "pairs.safetensors")
    surface = side.modality.surface()
    surface.render({"input": begin[: surface.shown], "output": end[: surface.shown]}, str(out / "gallery.png"))
    moved = (end - begin).square().flatten(1).sum(1).mean()
    facts |= {"points": len(points), "nfe": trajectory.nfe, "mean_squared_distance": float(moved)}
    experiment.write_json(out / "metrics.json", facts)
    return facts


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
    if not bool(x.isfinite().all()):
        raise FlowportError(f"input={path} holds NaN or infinite values; every point must be finite")
    return Sample(side.modality.embedded(x), labels)[:items]


def _label(label: int | None, module: AveragedModule, points: Sample) -> torch.Tensor | None:
    if label is None:
        return None
    classes = module.ema.conditioning.shape(module.source, module.target).classes
    if label >= classes:
        known = f"labels 0 to {classes - 1}" if classes else "no classes (conditioning=target_label trains with them)"
        raise FlowportError(f"label={label} is no label that this flow was told: it knows {known}")
    return torch.full((len(points),), label)
