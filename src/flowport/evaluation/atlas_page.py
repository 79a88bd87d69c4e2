"""The atlas of a sweep over domains as parts of its page: the answer, matrices as pictures, and a tidy table."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from flowport.cache import write_atomically
from flowport.errors import printable
from flowport.evaluation.atlas import (
    FOUND,
    PREDICTORS,
    Interval,
    Translation,
    difference,
    found_by,
    predicted_by,
)
from flowport.evaluation.learnt import REST, SLACK, distance_of
from flowport.evaluation.study_block import Block
from flowport.evaluation.tables import no_formula

MATRICES = {
    FOUND: ("rank of the partner", "0 found, 0.5 chance", (0.0, 0.5)),
    "test/partner_distance": ("distance to the partner", "1 is chance", (0.0, 1.0)),
    "test/energy": ("distance to the target over its floor", "1 is the floor; one colour from 4 on", (1.0, 4.0)),
}
"""Numbers that are drawn: title, meaning, and the range of the colours; the last one relative to its floor."""
ACROSS = 2
"""Number of matrices beside each other."""
COLUMNS = {
    "rank": FOUND,
    "rank before": f"{FOUND}_untranslated",
    "distance": "test/partner_distance",
    "first": "test/partner_top1",
    "class kept": "test/partner_class",
    "transport over least": "transport",
    "W2": "test/domain_w2_relative",
    "GW": "test/domain_gw_relative",
}
"""Columns of the table of pairs and their numbers."""


def atlas_blocks(atlas: Sequence[Translation], folder: Path) -> list[Block]:
    """The parts of the page, whose pictures, atlas.csv and atlas.md are written into a folder.

    Args:
        atlas: All pairs of domains of a sweep, in all settings.
        folder: The folder of the sweep.
    """
    settings = list(dict.fromkeys(t.setting for t in atlas))
    domains = list(dict.fromkeys(name for t in atlas for name in (t.source, t.target)))
    learnt = {setting: [t for t in atlas if t.setting == setting and t.learnt] for setting in settings}
    seeds = sorted({t.seeds for t in atlas})
    blocks = [
        Block("title", f"Atlas of translations between {len(domains)} domains"),
        Block(
            "text",
            f"{len({(t.source, t.target) for t in atlas})} ordered pairs of domains, {len(settings)} settings "
            f"({', '.join(settings)}), {'–'.join(map(str, seeds))} seeds each: does unpaired translation find the true "
            "partner of a held-out item, and does the geometry of the data predict whether it does?",
        ),
        Block("answer", rows=tuple((line,) for line in _answer(atlas, learnt))),
        Block("note", _method(atlas)),
        Block("head", "does the geometry of the data predict the rank of the partner?"),
        Block("table", rows=_predictions(learnt)),
        Block(
            "note",
            "Spearman's correlation over pairs with intervals over domains that hold together at 95 % (Bonferroni).",
        ),
    ]
    for k, (name, (title, meaning, _)) in enumerate(MATRICES.items()):
        if any(math.isfinite(_value(t, name)) for t in atlas):
            picture = folder / f"atlas_{k}.png"
            _draw({setting: [t for t in atlas if t.setting == setting] for setting in settings}, domains, name, picture)
            caption = f"{title} ({meaning}); rows are sources, columns targets; × marks flows that have not learnt."
            blocks += [Block("head", title), Block("picture", caption, picture=picture)]
    blocks += [Block("head", "all pairs"), Block("table", rows=_rows(atlas))]
    _write_csv(atlas, folder / "atlas.csv")
    text = "\n\n".join(block.markdown() for block in blocks) + "\n"
    write_atomically(folder / "atlas.md", lambda place: place.write_text(text))
    return blocks


def _answer(atlas: Sequence[Translation], learnt: dict[str, list[Translation]]) -> list[str]:
    lines = []
    for setting, chosen in learnt.items():
        every = sum(t.setting == setting for t in atlas)
        left = f"{every - len(chosen)} of {every} pairs are left out, whose flows did not learn their target"
        if not chosen:
            lines.append(f"{setting}: {left}.")
            continue
        now, before = found_by(chosen), _before(chosen)
        lines.append(f"{setting}: the partner's mean rank is {now}, before the translation {before}; {left}.")
    for a, b in combinations(learnt, 2):
        gap = difference(learnt[a], learnt[b])
        if gap is None:
            lines.append(f"{a} and {b} have learnt no pair in common, so neither can be said to find partners better.")
        else:
            lines.append(_compared(a, b, gap))
    return [*lines, *_foretold(learnt)]


def _before(chosen: Sequence[Translation]) -> str:
    name = f"{FOUND}_untranslated"
    known = [t for t in chosen if name in t.numbers]
    return str(found_by(known, name)) if known else "unknown"


def _compared(a: str, b: str, gap: Interval) -> str:
    on = f"over the {gap.pairs} pairs that both have learnt"
    if not gap.differs():
        return f"Neither {a} nor {b} is shown to find the partner better: their ranks differ by {gap} {on}."
    better, worse = (a, b) if gap.value < 0 else (b, a)
    return f"{better} finds the partner better than {worse}: the ranks of {a} minus those of {b} are {gap} {on}."


def _foretold(learnt: dict[str, list[Translation]]) -> list[str]:
    lines, together = [], len(learnt) * len(PREDICTORS)
    for setting, chosen in learnt.items():
        found = {name: predicted_by(chosen, name, together) for name in PREDICTORS}
        shown = [f"{name} ({value})" for name, value in found.items() if value is not None and value.differs()]
        if not any(value is not None and math.isfinite(value.low) for value in found.values()):
            lines.append(f"{setting}: too few pairs to say what predicts the rank of the partner.")
            continue
        nothing = "is not shown to be predicted by anything that was measured before"
        what = f"is predicted by {', '.join(shown)}" if shown else nothing
        lines.append(f"{setting}: the rank of the partner {what}.")
    return lines


def _method(atlas: Sequence[Translation]) -> str:
    domains = {name for t in atlas for name in (t.source, t.target)}
    unknown = sum(distance_of(t.numbers) is None for t in atlas)
    of_those = f" Of {unknown} flows no distance with a floor is known: they count as learnt." if unknown else ""
    return (
        "The rank is the share of the other held-out targets that are nearer to a translation than its true partner "
        "is; held-out items are unseen on both sides. [a, b] is a 95 % interval by the bootstrap over the "
        f"{len(domains)} domains: a pair counts as often as both of its domains were drawn. A flow has learnt where "
        f"at most {REST:g} is left of the way from untranslated source items to the floor (real target items in place "
        f"of translations) of the distance to the target, or that is at most {SLACK:g} times the floor.{of_those}"
    )


def _predictions(learnt: dict[str, list[Translation]]) -> tuple[tuple[str, ...], ...]:
    rows, together = [("known before", *learnt)], len(learnt) * len(PREDICTORS)
    for name in PREDICTORS:
        found = [predicted_by(chosen, name, together) for chosen in learnt.values()]
        rows.append((name, *(_cell(value) for value in found)))
    return tuple(rows)


def _cell(value: Interval | None) -> str:
    if value is None:
        return "too few pairs"
    return f"{value}, predicts" if value.differs() else str(value)


def numbers_of(one: Translation) -> dict[str, float]:
    """The columns of the table of pairs, NaN where a number was not measured.

    Args:
        one: A pair of domains.
    """
    least = one.numbers.get("test/transport_cost_least", math.nan)
    ratio = one.numbers.get("test/transport_cost", math.nan) / least if least else math.nan
    return {key: ratio if name == "transport" else one.numbers.get(name, math.nan) for key, name in COLUMNS.items()}


def _rows(atlas: Sequence[Translation]) -> tuple[tuple[str, ...], ...]:
    rows = [("source", "target", "setting", "learnt", *COLUMNS)]
    for t in atlas:
        cells = ("" if math.isnan(value) else f"{value:.3g}" for value in numbers_of(t).values())
        rows.append((t.source, t.target, t.setting, "yes" if t.learnt else "no", *cells))
    return tuple(rows)


def _write_csv(atlas: Sequence[Translation], path: Path) -> None:
    import pandas

    rows = [
        {
            **{key: no_formula(printable(word)) for key, word in words.items()},
            "seeds": t.seeds,
            "learnt": t.learnt,
            **t.numbers,
        }
        for t in atlas
        for words in ({"source": t.source, "target": t.target, "setting": t.setting},)
    ]
    text = pandas.DataFrame(rows).to_csv(index=False)
    write_atomically(path, lambda place: place.write_text(text, newline=""))


def _value(one: Translation, name: str) -> float:
    value = one.numbers.get(name, math.nan)
    return value / one.numbers.get(f"{name}_floor", math.nan) if name == "test/energy" else value


def _draw(chosen: Mapping[str, Sequence[Translation]], domains: Sequence[str], name: str, path: Path) -> None:
    """Draw a number as one matrix per setting, on one range of colours: rows are sources, columns targets."""
    from matplotlib.figure import Figure

    side, across = 0.45 * len(domains) + 1.4, min(ACROSS, len(chosen))
    down = -(-len(chosen) // across)
    figure = Figure(figsize=(side * across, (side + 0.2) * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, (setting, those) in zip(axes, chosen.items(), strict=False):
        _matrix(axis, those, domains, name)
        axis.set_title(setting.replace("$", "\\$"), fontsize=9)
    write_atomically(path, lambda place: figure.savefig(place, dpi=110, format="png"))


def _matrix(axis: Any, chosen: Sequence[Translation], domains: Sequence[str], name: str) -> None:
    """Draw the values of one setting."""
    grid = np.full((len(domains), len(domains)), np.nan)
    for t in chosen:
        grid[domains.index(t.source), domains.index(t.target)] = _value(t, name)
    low, high = MATRICES[name][2]
    image = axis.imshow(np.ma.masked_invalid(grid), cmap="viridis_r", vmin=low, vmax=high)
    for t in chosen:
        value, (i, j) = _value(t, name), (domains.index(t.source), domains.index(t.target))
        if math.isfinite(value):
            dark = sum(image.cmap(image.norm(value))[:3]) < 1.5
            text = f"{value:.2f}" + ("" if t.learnt else "\n×")
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "#222222")
    names = [printable(each).replace("$", "\\$") for each in domains]
    axis.set_xticks(range(len(domains)), names, fontsize=8, rotation=90)
    axis.set_yticks(range(len(domains)), names, fontsize=8)
    axis.set_xlabel("target", fontsize=8)
    axis.set_ylabel("source", fontsize=8)
