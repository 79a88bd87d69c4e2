"""What a run leaves to be looked at and listened to: sounds, clouds in space, points of the plane, and ways.

All runs of the same held-out data show the same items, so that a study can put them below each other on shared axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.evaluation.evaluator import evenly
from flowport.metric.base import EvaluationResult
from flowport.modality.base import Modality

SOUNDS, CLOUDS = 4, 4
"""Number of items whose sounds and whose clouds are kept."""
POINTS = 512
"""Largest number of points of a kept cloud."""
SCATTER, WAYS = 400, 60
"""Number of points of the plane, and of ways between them, that are kept."""
TIMES = 17
"""Largest number of states of a way."""
SHOWN_TIMES = 6
"""Number of states in the picture of ways."""


@dataclass(frozen=True)
class Showcase:
    """What a run shows, by row: ``"source"``, ``"translation"``, ``"partner"`` or ``"target"``.

    Args:
        sounds: Files of sound, one per item.
        clouds: Coordinates (N, 3) and RGB colours (N, 3) of every item.
        plane: Points of the plane, (n, 2).
        ways: Trajectories in the plane, (K+1, n, 2).
    """

    sounds: dict[str, list[Path]] = field(default_factory=dict)
    clouds: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    plane: dict[str, Tensor] = field(default_factory=dict)
    ways: Tensor | None = None


def write_sounds(rows: Mapping[str, Tensor], modality: Modality, folder: Path) -> None:
    """Write the sounds of the first items of every row, <row>_<k>.wav; nothing for points that are not sound.

    Args:
        rows: Points (n, *D) of every row.
        modality: Their modality.
        folder: Where the files go.
    """
    for name, x in rows.items():
        sound = modality.sound(x[:SOUNDS].cpu())
        if sound is not None:
            from scipy.io import wavfile

            folder.mkdir(parents=True, exist_ok=True)
            for k, wave in enumerate(sound.waves):
                wavfile.write(folder / f"{name}_{k}.wav", sound.rate, wave.numpy())


def shown_values(rows: Mapping[str, Tensor], outcome: EvaluationResult, modality: Modality) -> dict[str, Any]:
    """Clouds in space and points of the plane with their ways as plain values; empty for other points.

    Args:
        rows: Points (n, *D) of the items that are shown, by row.
        outcome: The evaluation, of which points of the plane are taken.
        modality: Modality of the points.
    """
    values: dict[str, Any] = {}
    for name, x in rows.items():
        some = x[:CLOUDS].cpu()
        origin = rows["source"][:CLOUDS].cpu() if name == "translation" and _alike(rows["source"], x) else some
        shapes = modality.vertices(some, origin)
        if shapes is not None:
            at = evenly(shapes.points.shape[1], POINTS)
            clouds = values.setdefault("clouds", {})
            clouds[name] = {"points": _rounded(shapes.points[:, at]), "colours": shapes.colours[:, at].tolist()}
    if outcome.result.ndim == 2 and outcome.result.shape[1] >= 2 and _alike(outcome.source.x, outcome.result):
        at = evenly(len(outcome.result), SCATTER)
        whole = {"source": outcome.source.x, "translation": outcome.result}
        values["plane"] = {name: _rounded(x[at.to(x.device), :2]) for name, x in whole.items()}
        values["plane"]["target"] = _rounded(outcome.target.x[:SCATTER, :2])
        states = outcome.states[evenly(len(outcome.states), TIMES)]
        if len(outcome.states) > TIMES:
            states = torch.cat([states[:-1], outcome.states[-1:]])
        values["ways"] = _rounded(states[:, at[:: max(1, len(at) // WAYS)], :2])
    return values


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape[1:] == b.shape[1:]


def _rounded(x: Tensor) -> Any:
    return (x.detach().cpu().double().nan_to_num(0, 0, 0) * 1e4).round().div(1e4).tolist()


def read_showcase(values: Mapping[str, Any], path: Path, sounds: dict[str, list[Path]]) -> Showcase:
    """What ``shown_values`` gave.

    Args:
        values: The values.
        path: Their file, for messages.
        sounds: Files of sound by row.

    Raises:
        FlowportError: For values of another shape or kind.
    """
    try:
        clouds = {str(name): _clouds(held) for name, held in values.get("clouds", {}).items()}
        plane = {str(name): _points(x, 2) for name, x in values.get("plane", {}).items()}
        ways = None if values.get("ways") is None else torch.tensor(values["ways"], dtype=torch.float64)
        if ways is not None and (ways.ndim != 3 or ways.shape[2] != 2):
            raise ValueError("ways")
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError):
        raise FlowportError(f"{path} is damaged: it does not hold points as flowport writes them") from None
    return Showcase(sounds, clouds, plane, ways)


def _clouds(held: Any) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(held["points"][:CLOUDS], held["colours"][:CLOUDS], strict=True)
    found = [(_points(points, 3)[:POINTS], _points(colours, 3)[:POINTS].clamp(0, 255)) for points, colours in pairs]
    if any(len(points) != len(colours) for points, colours in found):
        raise ValueError("colours")
    return found


def _points(values: Any, axes: int) -> Tensor:
    x = torch.tensor(values, dtype=torch.float64)
    if x.ndim != 2 or x.shape[1] != axes or not bool(x.isfinite().all()):
        raise ValueError("points")
    return x
