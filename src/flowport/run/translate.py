"""Translate points with a trained run: forward, backward, or forward and back again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from flowport.cache import write_atomically
from flowport.conditioning import TargetLabelConditioning
from flowport.data.agreement import class_names, shortened
from flowport.data.pairing import write_pairs
from flowport.data.remembered import RememberedData
from flowport.distribution import AudioFolder
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.files import Files, Reading
from flowport.distribution.reading import READERS, read
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.run.build import Run
from flowport.run.config_checks import check_kind
from flowport.run.device import device_of
from flowport.run.restore import record, restore
from flowport.run.run_folder import RunFolder
from flowport.run.translated_files import (
    FileTranslation,
    Outcome,
    Sides,
    check_output,
    check_range,
    files_of,
    find,
    number_of_label,
    plan,
    write_unreadable,
)
from flowport.sampling.solver.base import Trajectory
from flowport.sampling.translator import Translator
from flowport.tensors import float32_products
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
OWN = 64
"""Number of the run's own points that are translated where no number is given."""


@dataclass
class _Task:
    """A restored run and what a command asks of it."""

    run: Run
    sides: Sides
    direction: str
    label: int | str | None
    randomness: Randomness
    device: torch.device

    @property
    def translator(self) -> Translator:
        return self.run.sampler.translator(self.run.module.ema)

    def labels(self, n: int) -> Tensor | None:
        """The requested class of n points."""
        module = self.run.module
        if self.label is None:
            asks = isinstance(module.ema.conditioning, TargetLabelConditioning)
            if asks and self.direction == "forward" and module.target.classes:
                names = shortened(class_names(module.target))
                raise FlowportError(f"this flow translates to a class that you choose: write label=<one of {names}>")
            return None
        known = module.ema.conditioning.shape(module.source, module.target).classes
        return torch.full((n,), number_of_label(self.label, class_names(module.target)[:known]))

    def trajectory(self, points: Sample, number: int) -> Trajectory:
        """The translation of a batch of points by its number."""
        label, place = self.labels(len(points)), points.x.device
        noise = self.randomness.generator("noise", number)
        return DIRECTIONS[self.direction](self.translator, points, noise, None if label is None else label.to(place))


@float32_products(tf32=False)
def translate(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    """Translate points with a trained run; builds no metric and trains nothing.

    Files of ``input`` become files of the same names in ``output``. Of an array, or of the run's own points,
    translated.npy (encoded points) and, for ``pairing=stored``, pairs.safetensors (points of source and target as the
    network sees them, with their labels) are written too. All write gallery.png and metrics.json.

    Args:
        folder: The run's, which is only read.
        overrides: See ``restore``; the other keys as in configs/translate.yaml.
        out: Where the results go.

    Raises:
        FlowportError: For an unknown direction, points of another shape, files that cannot be read or written, and a
            sampler that the field does not support.
    """
    if overrides.direction not in DIRECTIONS:
        raise FlowportError(f"direction={overrides.direction} is unknown: use direction=forward, backward or cycle")
    check_kind("points", overrides.points, int | None, 1)
    check_kind("input", overrides.input, str | None)
    check_kind("label", overrides.label, int | str | None)
    check_kind("part", overrides.part, Literal["train", "validation", "test"])
    run = restore(folder, overrides, data=overrides.input is None)
    place = device_of(run.config.trainer, overrides)
    run.module.to(place)
    task = _Task(run, _sides(run, overrides.direction), overrides.direction, overrides.label, _randomness(run), place)
    _check_samples(task.translator, overrides.samples)
    task.labels(1)
    if overrides.input is None or _is_array(Path(overrides.input), files_of(task.sides.begin)):
        numbers = _translate_points(task, overrides, out)
    else:
        numbers = _translate_files(task, overrides, out)
    numbers = {**record(folder), **numbers}
    out.write_metrics(numbers)
    return numbers


def _is_array(place: Path, reader: Files | None) -> bool:
    """Whether the input is an array of points, rather than a file of one item as a cloud's (N, 3) is."""
    if place.suffix not in READERS or place.is_dir():
        return False
    if reader is None or place.suffix not in reader.suffixes:
        return True
    try:
        return place.suffix == ".npy" and np.load(place, mmap_mode="r", allow_pickle=False).ndim != 2
    except (OSError, ValueError):
        return False


def _randomness(run: Run) -> Randomness:
    return run.module.randomness.under("translate")


def _sides(run: Run, direction: str) -> Sides:
    source, target = run.module.source, run.module.target
    return {"forward": Sides(source, target), "backward": Sides(target, source), "cycle": Sides(source, source)}[
        direction
    ]


def _check_samples(translator: Translator, samples: int) -> None:
    """Refuse several samples of a flow that gives equal ones."""
    check_kind("samples", samples, int, 1)
    if samples > 1 and not (translator.volatility.stochastic or translator.solver.needs_score):
        raise FlowportError(
            f"samples={samples} would write equal files, because this flow is an ODE with one translation of each "
            "start: leave samples=1, or translate by a flow with a law, such as experiment=images_bridge"
        )


def _translate_points(task: _Task, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    side = task.sides.begin
    points, names = _points(overrides, side, task.randomness)
    points = points.to(task.device)
    trajectory = task.trajectory(points, 0)
    begin, end = side.modality.observed(points.x), task.sides.end.modality.observed(trajectory.end)
    write_atomically(out.translated, lambda path: _save_array(path, end))
    if task.direction in PAIRS:
        label, forward = task.labels(len(points)), task.direction == "forward"
        condition = task.translator.field.conditioning.sampling(
            points, label if forward or label is not None else points.label
        )
        write_pairs(PAIRS[task.direction](points, trajectory.end, condition.label), out.pairs)
    numbers: dict[str, Any] = {"points": len(points), "nfe": trajectory.nfe}
    writer = files_of(task.sides.end)
    own = _own_files(task, overrides)
    if own is not None and writer is not None:
        numbers = {**_translate_found(task, overrides, out, *own), **numbers}
    elif writer is not None:
        _write_own(writer, task, trajectory.end, names, Path(overrides.output or out.files))
    _picture([begin.cpu()], [end.cpu()], task.sides, out)
    return {**numbers, "mean_squared_distance": float((end - begin).square().flatten(1).sum(1).mean())}


def _own_files(task: _Task, overrides: DictConfig) -> tuple[Path, list[str]] | None:
    """The folder and the files of a split of the run's own data, where these are files."""
    part = task.sides.begin.split(overrides.part)
    if overrides.input is not None or not isinstance(part, Stored) or part.files is None or not part.names:
        return None
    side = "target" if task.direction == "backward" else "source"
    names = list(dict.fromkeys(part.names[i].split("#")[0] for i in part.items_of_part().tolist()))
    n = min(overrides.points or OWN, len(names))
    return Path(str(task.run.config[side].path)).expanduser(), [names[k * len(names) // n] for k in range(n)]


def _write_own(writer: Files, task: _Task, end: Tensor, names: list[str], output: Path) -> None:
    """The translations of points that were not read from files, as files all the same."""
    nothing = Reading(np.empty(0))

    def write(raw: Tensor, file: Path) -> None:
        write_atomically(file, lambda place: writer.write(raw, place, writer.plain, nothing))

    if output.exists() and not output.is_dir():
        raise FlowportError(f"output={output} is a file: give a folder")
    for raw, name in zip(task.sides.end.modality.decode(end).cpu(), names, strict=True):
        write(raw, output / f"{name}{writer.plain}")


def _translate_files(task: _Task, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    return _translate_found(task, overrides, out, *find(overrides.input, task.sides.reader()))


def _translate_found(
    task: _Task,
    overrides: DictConfig,
    out: RunFolder,
    folder: Path,
    names: list[str],
    broken: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Translate files that were found in a folder."""
    reader, writer = task.sides.reader(), files_of(task.sides.end)
    if writer is None:
        name = type(task.sides.end.modality.surface()).__name__
        raise FlowportError(f"this flow ends at points of modality={name}, which are written as no files")
    planned = plan(names[: overrides.points], writer, reader, overrides.samples)
    output = Path(overrides.output).expanduser().absolute() if overrides.output else out.files
    check_output(output, planned, folder, overrides.overwrite)
    evaluations: list[int] = []

    def ends(points: Sample, number: int) -> Tensor:
        found = task.trajectory(points, number)
        evaluations.append(found.nfe)
        return found.end

    mask = isinstance(task.sides.begin, RememberedData | AudioFolder) and task.sides.begin.mask_padding
    work = FileTranslation(task.sides, reader, writer, ends, task.device, overrides.samples, mask)
    done = work.run(folder, planned, output)
    done.unreadable.update(broken or {})
    write_unreadable(done.unreadable, out.unreadable)
    begin, end = task.sides.begin.modality, task.sides.end.modality
    _picture([begin.observed(x) for x in done.begin], [end.observed(x) for x in done.end], task.sides, out)
    return _numbers(done, max(evaluations), output)


def _numbers(done: Outcome, nfe: int, output: Path) -> dict[str, Any]:
    return {
        "files": done.files,
        "unreadable": len(done.unreadable),
        "points": done.pieces,
        "nfe": nfe,
        "seconds": round(done.seconds, 2),
        "files_per_second": round(done.files / max(done.seconds, 1e-9), 2),
        "mean_squared_distance": done.moved / done.pieces,
        "output": str(output),
    }


def _picture(begin: list[Tensor], end: list[Tensor], sides: Sides, out: RunFolder) -> None:
    """A contact sheet, drawn by the modality of the end where both have one shape, else by each one's own."""
    first, last = torch.cat(begin), torch.cat(end)
    surface, own = sides.end.modality.surface(), sides.begin.modality.surface()
    n = surface.shown
    if first.shape[1:] == last.shape[1:]:
        surface.render({"input": first[:n], "output": last[:n]}, str(out.gallery))
        return
    surface.render({"output": last[:n]}, str(out.gallery))
    own.render({"input": first[: own.shown]}, str(out.gallery.with_name("gallery_input.png")))


def _save_array(path: Any, x: Tensor) -> None:
    with path.open("wb") as file:  # np.save would add .npy to the name of the partial file
        np.save(file, x.cpu().numpy())


def _points(overrides: DictConfig, side: Distribution, randomness: Randomness) -> tuple[Sample, list[str]]:
    """Points of the run's own data or of an array, with their names."""
    path: str | None = overrides.input
    if path is None:
        part = side.split(overrides.part)
        points = part.every(overrides.points or OWN, randomness)
        return points, _names(part, points)
    raw, labels = read(path, None, None)
    bytes_of = raw.dtype == torch.uint8
    raw = raw[:, None] if bytes_of and raw.ndim == 3 else raw  # as TensorFile reads them
    x = side.modality.surface().encode(raw, None) if bytes_of else raw.float()
    shape = tuple(side.modality.observed(torch.zeros(1, *side.event_shape)).shape[1:])
    if tuple(x.shape[1:]) != shape:
        raise FlowportError(f"input={path} holds points of shape {tuple(x.shape[1:])}, but this run takes {shape}")
    if not len(x):
        raise FlowportError(f"input={path} holds no points")
    if not bool(x.isfinite().all()):
        raise FlowportError(f"input={path} holds NaN or infinite values; every point must be finite")
    if not bytes_of:
        check_range(x, side, path)
    points = Sample(side.modality.embedded(x), labels)[: overrides.points]
    return points, [f"{k:05}" for k in range(len(points))]


def _names(part: Distribution, points: Sample) -> list[str]:
    """Names for files: those of the items without suffix, else numbers."""
    if isinstance(part, Stored) and part.names and points.id is not None:
        found = [part.names[i] for i in part.items_of_part()[points.id].tolist()]
        return [str(Path(name).with_suffix("")) + name[len(name.split("#")[0]) :].replace("#", "_") for name in found]
    return [f"{k:05}" for k in range(len(points))]
