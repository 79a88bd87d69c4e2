"""What a study shows of the same items by every setting: sounds that play, clouds that turn, the plane, histograms."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowport.cache import write_atomically
from flowport.evaluation.showcase import Showcase
from flowport.evaluation.study import COLUMNS, IDLE, Study, column_of
from flowport.evaluation.study_block import Block
from flowport.evaluation.study_pictures import plane_figure

LARGEST_SOUND = 2**22
"""Size of the largest file of sound that is shown, in bytes."""
SIDE = 150
"""Side of a canvas, in pixels."""
HISTOGRAMS = ("transport_cost", "distance", "rank", "cycle_error")
"""Columns of items whose values are drawn as histograms."""

SCRIPT = """const all=[...document.querySelectorAll('canvas[data-cloud]')].map(c=>({c,...JSON.parse(c.dataset.cloud)}));
let turn=0.6,held=null;
function draw(){const s=Math.sin(turn),k=Math.cos(turn);
for(const {c,p,q} of all){const g=c.getContext('2d'),h=c.width/2,m=h/1.75;g.clearRect(0,0,c.width,c.height);
const seen=[];for(let i=0;i<p.length;i+=3){const x=p[i]/1e3,y=p[i+1]/1e3,z=p[i+2]/1e3,f=k*y-s*x;
seen.push([k*x+s*y,.87*z-.5*f,.87*f+.5*z,i]);}
seen.sort((a,b)=>a[2]-b[2]);for(const [x,y,d,i] of seen){
g.fillStyle=`rgb(${q[i]},${q[i+1]},${q[i+2]})`;g.beginPath();g.arc(h+m*x,h-m*y,1.9+.5*d,0,7);g.fill();}}}
function step(){if(held===null){turn+=.008;draw();}requestAnimationFrame(step);}
for(const {c} of all){c.onpointerdown=e=>{held=e.clientX;c.setPointerCapture(e.pointerId);};
c.onpointermove=e=>{if(held!==null){turn+=(e.clientX-held)/80;held=e.clientX;draw();}};c.onpointerup=()=>{held=null;};}
draw();if(all.length&&!matchMedia('(prefers-reduced-motion: reduce)').matches)step();"""
"""The script that turns the clouds; it reads the points from the page and nothing else."""


def _shows(study: Study) -> dict[str, Showcase]:
    """What the first run of every setting shows, where it shows something."""
    return {label: group[0].show for label, group in study.groups.items() if group[0].show is not None}


def _rows(study: Study, part: str) -> dict[str, Any]:
    """Source, every setting and partner or target, of one part of what runs show."""
    shows = _shows(study)
    first: Mapping[str, Any] = getattr(next(iter(shows.values())), part) if shows else {}
    if not first:
        return {}
    own = {label: getattr(show, part).get("translation") for label, show in shows.items()}
    ends = {"true partner": first.get("partner"), "real target": first.get("target")}
    rows = {"source": first.get("source"), **own, **ends}
    return {name: row for name, row in rows.items() if row is not None}


def sounds(study: Study) -> list[Block]:
    """The same sounds before and after by every setting, to play.

    Args:
        study: The study.
    """
    found = _rows(study, "sounds")
    if not found:
        return []
    lines = tuple((name, tuple(_audio(path) for path in paths)) for name, paths in found.items())
    return [
        Block("media", "The same held-out sounds, one a column, by the first run of each setting.", html_rows=lines)
    ]


def _audio(path: Path) -> str:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_SOUND:
        return ""
    data = path.read_bytes()
    if not (data.startswith(b"RIFF") and data[8:12] == b"WAVE"):
        return ""
    return f'<audio controls src="data:audio/wav;base64,{base64.b64encode(data).decode()}"></audio>'


def clouds(study: Study) -> list[Block]:
    """The same clouds before and after by every setting, which turn.

    Args:
        study: The study.
    """
    found = _rows(study, "clouds")
    if not found:
        return []
    every = torch.cat([points for row in found.values() for points, _ in row])
    scale = float(every.abs().max().clamp_min(1e-9)) / 1.15
    lines = tuple((name, tuple(_canvas(x, colours, scale) for x, colours in row)) for name, row in found.items())
    text = (
        "The same held-out clouds, one a column, by the first run of each setting; a point of a translation has the "
        "colour of its height in the source. Drag a cloud to turn all."
    )
    return [Block("media", text, html_rows=lines)]


def _canvas(points: Tensor, colours: Tensor, scale: float) -> str:
    held = {"p": (points / scale * 1000).round().long().flatten().tolist(), "q": colours.long().flatten().tolist()}
    data = json.dumps(held, separators=(",", ":")).replace('"', "&quot;")
    return f'<canvas width="{SIDE}" height="{SIDE}" data-cloud="{data}"></canvas>'


def plane(study: Study, folder: Path) -> list[Block]:
    """Points of the plane by every setting on shared axes, with their ways, beside source and target.

    Args:
        study: The study.
        folder: Where the picture goes.
    """
    found = _rows(study, "plane")
    if not found:
        return []
    ways = {label: show.ways for label, show in _shows(study).items() if show.ways is not None}
    caption = (
        "The same sources by the first run of each setting, on shared axes: grey lines are trajectories from a source "
        "to its translation."
    )
    return [_picture(plane_figure(found, ways), folder / "study_plane.png", caption)]


def histograms(study: Study, folder: Path) -> list[Block]:
    """The distribution over items of pair cost, distance, rank and cycle error by every setting, on shared axes.

    Args:
        study: The study.
        folder: Where the picture goes.
    """
    columns = [one.column for one in study.comparisons if one.column in HISTOGRAMS]
    if not columns:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(columns) + 0.6, 2.9))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        values = {label: column_of(study, label, column) for label in study.groups}
        values = {label: x[x.isfinite()] for label, x in values.items()}
        every = torch.cat(list(values.values()))
        low, high = (float(end) for end in (every.min(), every.max()))
        edges = torch.linspace(low, high if high > low else low + 1, 31).tolist()
        for k, (label, x) in enumerate(values.items()):
            shown = label.replace("$", "\\$")
            axis.hist(x.numpy(), bins=edges, histtype="step", lw=1.3, color=f"C{k % 10}", label=shown)
        axis.set_title(f"{COLUMNS[column].title} of an item", fontsize=9)
        axis.set_ylabel("items", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.2)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    return [
        _picture(figure, folder / "study_histograms.png", "Histograms over the items, seeds of a setting averaged.")
    ]


def _picture(figure: Any, path: Path, caption: str) -> Block:
    figure.set_layout_engine("constrained")
    write_atomically(path, lambda place: figure.savefig(place, dpi=110, format="png"))
    return Block("picture", caption, picture=path)


SPENT = ("train/steps", "train/seconds", "train/step_ms", "test/seconds", "test/nfe")
"""What a run spends, in the order of the table."""


def spent(study: Study) -> list[Block]:
    """Steps, seconds, evaluations of the field and memory of every setting, means over its runs.

    Args:
        study: The study.
    """
    every = [run for group in study.groups.values() for run in group]
    memory = dict.fromkeys(name for run in every for name in run.numbers if "memory" in name)
    names = [name for name in (*SPENT, *memory) if any(name in run.numbers for run in every)]
    if not names:
        return []
    rows = [("setting", *names)]
    for label, group in study.groups.items():
        cells = []
        for name in names:
            values = [run.numbers[name] for run in group if name in run.numbers]
            cells.append(f"{sum(values) / len(values):.4g}" if values else "")
        rows.append((label, *cells))
    return [
        Block("head", "time and memory"),
        Block("text", "Means over the runs of a setting, on the machine where they ran."),
        Block("table", rows=tuple(rows)),
    ]


def over_bound(study: Study) -> list[Block]:
    """How far the transport cost of every setting lies above the least cost of pairing the same points.

    Args:
        study: The study.
    """
    one = next((c for c in study.comparisons if c.column == "transport_cost" and c.least), None)
    if one is None:
        return []
    ratios = [f"{label} {one.values[label].mean / least:.3g} times" for label, least in one.least.items() if least > 0]
    text = (
        "The least cost is that of optimal transport between the sources and their own translations: a translation "
        "that costs more pairs them worse than it could. Over it: " + ", ".join(ratios) + "."
    )
    return [Block("text", text)] if ratios and one.values.keys() - {IDLE} else []
