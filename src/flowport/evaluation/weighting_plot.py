"""Plots of loss weights w(λ) over the log signal-to-noise ratio λ."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from flowport.cache import write_atomically
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.objective.base import Objective
from flowport.objective.flow_matching import FlowMatching
from flowport.objective.weighting import LogSNRWeighting, Weighting, profile

SPAN = 12.0
"""The largest |λ| that is drawn."""

Curve = tuple[Tensor, Tensor]
"""λ (n,), ascending, and w(λ) (n,)."""


def defined_curves(weightings: Mapping[str, Weighting]) -> dict[str, Curve]:
    """The curves of those weightings that are defined by a w(λ).

    Args:
        weightings: Weightings by name.
    """
    snr = torch.linspace(-SPAN, SPAN, 1201, dtype=torch.float64)
    return {name: (snr, w.of(snr)) for name, w in weightings.items() if isinstance(w, LogSNRWeighting)}


def computed_curve(objective: Objective, field: Field) -> Curve:
    """The curve w(λ) of an objective by its path, prediction, times and weighting, for any weighting.

    Args:
        objective: The objective.
        field: The field that it trains.

    Raises:
        FlowportError: For an objective other than flow matching, which is no integral of w(λ).
    """
    if not isinstance(objective, FlowMatching):
        raise FlowportError(
            f"{type(objective).__name__} is no integral of a weight over the log-SNR: use objective=flow_matching "
            "or score_matching"
        )
    inside = torch.linspace(0.002, 0.998, 4001, dtype=torch.float64)  # λ is clamped nearer to the ends
    t, slope = field.prediction.times(field.path, inside)
    return profile(t, field, objective.time_sampler.density(inside) / slope, objective.weighting)


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw one line per curve, scaled to 1 at λ = 0; the first line is thick.

    Args:
        curves: Curves by name.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5))
    axis = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for k, (name, (snr, w)) in enumerate(curves.items()):
        shown = (snr.abs() <= SPAN) & (w > 0)
        snr, w = snr[shown], (w / w[snr.abs().argmin()])[shown]
        style = {"lw": 5, "color": "#c9ced4"} if k == 0 else {"lw": 1.6, "color": colours[(k - 1) % 10]}
        if name == "cosine":  # lies on flow_matching
            style |= {"ls": "--", "zorder": 5}
        axis.plot(snr, w, label=name, **style)
    axis.set(yscale="log", ylim=(1e-3, 1e3), xlim=(-SPAN, SPAN))
    axis.set_xlabel("λ = log signal-to-noise ratio  (noise ← → data)")
    axis.set_ylabel("w(λ) / w(0), weight of the error of the noise")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9, frameon=False, ncols=2)
    figure.tight_layout()
    write_atomically(Path(path), lambda place: figure.savefig(place, dpi=110, format="png"))
