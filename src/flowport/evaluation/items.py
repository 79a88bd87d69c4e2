"""The numbers of every held-out source item: distance to its true partner and its rank, class, transport cost, cycle.

Distances are root mean squares over the coordinates that are data on both sides (``Sample.mask``), of points as they
are observed. A number that cannot be computed for any item is no column; the reason is said once.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flowport.cache import write_atomically
from flowport.data.agreement import class_names
from flowport.distribution.base import Distribution, Stored
from flowport.errors import FlowportError, printable
from flowport.evaluation.bootstrap import estimate
from flowport.evaluation.held_out import partner_items, retrieval_set
from flowport.evaluation.tables import no_formula
from flowport.metric.base import EvaluationResult
from flowport.metric.features import read
from flowport.metric.partners import mean_squares
from flowport.metric.path_energy import transport_cost
from flowport.metric.precision import rows
from flowport.types import Sample

UNTRANSLATED = "_untranslated"
CYCLED = 256
"""Largest number of items that are translated back."""
CHUNK = 256
"""Number of items whose distances to all held-out targets are in memory at once."""
EXAMPLES = 8
"""Number of items that are shown."""
METRICS = {"class_kept": "class_preservation", "transport_cost": "transport_cost"}
"""Columns whose mean is a metric of another name."""


@dataclass(frozen=True)
class ItemTable:
    """A row per item.

    Args:
        names: The name of every item, its number where it has none.
        text: Columns of text by name.
        numbers: Columns of numbers by name, (n,) float64, NaN where an item has none.
        candidates: Number of held-out targets of the ranks, 0 without ranks.
        absent: Why a column is absent, by its name.
    """

    names: list[str]
    text: dict[str, list[str]] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    candidates: int = 0
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """The file of every item, of which several items may be pieces."""
        return [re.sub(r"#\d+$", "", name) for name in self.names]

    def examples(self) -> list[int]:
        """Rows of at most ``EXAMPLES`` items, those with a partner first, chosen by a hash of their names.

        The choice is the same in every run that has the same items.
        """
        have = self.text.get("partner", [""] * len(self.names))

        def place(row: int) -> tuple[bool, bytes]:
            return not have[row], blake2b(self.names[row].encode(errors="replace"), digest_size=8).digest()

        return sorted(range(len(self.names)), key=place)[:EXAMPLES]

    def confusion(self) -> dict[str, Counter[str]] | None:
        """How many items of each class (key) were translated into each class; None without classes."""
        if not {"class", "class_after"} <= set(self.text):
            return None
        counts = dict[str, Counter[str]]()
        for before, after in zip(self.text["class"], self.text["class_after"], strict=True):
            counts.setdefault(before, Counter())[after] += 1
        return dict(sorted(counts.items()))

    def as_csv(self) -> str:
        """The table as text: names first, then columns of text and of numbers; an empty cell where there is none."""
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(["item", *self.text, *self.numbers])
        for row in range(len(self.names)):
            text = [no_formula(printable(cells[row])) for cells in (self.names, *self.text.values())]
            numbers = ["" if math.isnan(float(v[row])) else f"{float(v[row]):.9g}" for v in self.numbers.values()]
            writer.writerow([*text, *numbers])
        return out.getvalue()


def item_table(
    outcome: EvaluationResult, source: Distribution, target: Distribution, classifier: nn.Module | None = None
) -> ItemTable:
    """The numbers of every item of an evaluation.

    Args:
        outcome: The evaluation.
        source: The split of the source from which its items are.
        target: The same split of the target.
        classifier: A ``FeatureClassifier`` of target points, where the metrics use one.

    Raises:
        FlowportError: For translations that are not finite.
    """
    rows(outcome.result)
    table = ItemTable(_names(outcome.source, source))
    _add_classes(table, outcome, source, target, classifier)
    candidates = _add_partners(table, outcome, source, target, classifier)
    _add_transport(table, outcome)
    _add_cycle(table, outcome)
    return ItemTable(table.names, table.text, table.numbers, candidates, table.absent)


def _names(start: Sample, source: Distribution) -> list[str]:
    if start.id is None or not isinstance(source, Stored):
        return [str(k) for k in range(len(start))]
    raw = source.items_of_part().cpu()[start.id.cpu()].tolist()
    return [source.names[k] if source.names else str(k) for k in raw]


def _add_classes(
    table: ItemTable,
    outcome: EvaluationResult,
    source: Distribution,
    target: Distribution,
    classifier: nn.Module | None,
) -> None:
    label = outcome.source.label
    if label is None or source.classes == 0 or label.ndim != 1:
        table.absent["class"] = "the source has no classes"
        label = None
    else:
        mine = class_names(source)
        table.text["class"] = [mine[k] for k in label.tolist()]
    logits = None if classifier is None else read(classifier, outcome.result, features=False)
    if classifier is None or logits is None or logits.shape[1] != target.classes:
        table.absent["class_after"] = "no metric of this run uses a classifier of the target's classes"
        return
    theirs, after = class_names(target), logits.argmax(1)
    table.text["class_after"] = [theirs[k] for k in after.tolist()]
    if label is None:
        return
    found = {"": after}
    if outcome.source.x.shape == outcome.result.shape:
        found[UNTRANSLATED] = read(classifier, outcome.source.x, features=False).argmax(1)
    foreign = label >= target.classes
    for which, seen in found.items():
        table.numbers[f"class_kept{which}"] = (seen == label).double().masked_fill(foreign, math.nan).cpu()


def _add_partners(
    table: ItemTable,
    outcome: EvaluationResult,
    source: Distribution,
    target: Distribution,
    classifier: nn.Module | None,
) -> int:
    """Adds distances and ranks; returns the number of held-out targets of the ranks."""
    found = partner_items(source, target)
    if found is None or outcome.source.id is None or not isinstance(target, Stored):
        table.absent["distance, rank"] = "no item has a partner of the same name in the held-out target"
        return 0
    partner = found[outcome.source.id.cpu()]
    have = (partner >= 0).nonzero().squeeze(1)
    if len(have) == 0:
        table.absent["distance, rank"] = "none of the evaluated items has a partner in the held-out target"
        return 0
    observed, others, place = retrieval_set(target, partner)
    assert others is not None and isinstance(observed, Stored)
    table.text["partner"] = [
        "" if k < 0 else observed.names[int(observed.index[k])] if observed.names else str(int(observed.index[k]))
        for k in partner.tolist()
    ]
    place = place[have].to(others.x.device)
    true = others[place]
    ends, here = {"": outcome.result}, have.to(outcome.result.device)
    if outcome.source.x.shape == outcome.result.shape:
        ends[UNTRANSLATED] = outcome.source.x
    for which, x in ends.items():
        mine = Sample(x[here], mask=None if outcome.source.mask is None else outcome.source.mask[here])
        table.numbers[f"distance{which}"] = _scattered(rms(mine, true), have, len(partner))
        table.numbers[f"rank{which}"] = _scattered(ranks(mine, others, place), have, len(partner))
        if classifier is not None:
            gap = [Sample(read(classifier, y, features=True)) for y in (mine.x, true.x)]
            table.numbers[f"feature_distance{which}"] = _scattered(rms(*gap), have, len(partner))
    if classifier is None:
        table.absent["feature_distance"] = "no metric of this run uses a classifier"
    return len(others)


def _add_transport(table: ItemTable, outcome: EvaluationResult) -> None:
    if outcome.source.x.shape == outcome.result.shape:
        table.numbers["transport_cost"] = transport_cost(outcome.source.x, outcome.result).cpu()
    else:
        table.absent["transport_cost"] = "source and target points have different shapes"


def _add_cycle(table: ItemTable, outcome: EvaluationResult) -> None:
    if outcome.back is None:
        table.absent["cycle_error"] = "the flow is no ODE that can be run backward"
        return
    n = len(outcome.result)
    some = torch.arange(min(n, CYCLED)) * n // min(n, CYCLED)
    here = some.to(outcome.result.device)
    try:
        ends = outcome.back(here)
    except FlowportError as error:
        table.absent["cycle_error"] = str(error)
        return
    start = outcome.states[0][here]
    mask = outcome.source.mask
    fits = mask is not None and mask.shape[1:] == start.shape[1:]
    known = mask[here] if mask is not None and fits else None
    table.numbers["cycle_error"] = _scattered(rms(Sample(ends, mask=known), Sample(start)), some, n)


def _scattered(values: Tensor, at: Tensor, n: int) -> Tensor:
    """Values at some rows of n, NaN at the others."""
    whole = torch.full((n,), math.nan, dtype=torch.float64)
    whole[at] = values.double().cpu()
    return whole


def _weights(sample: Sample) -> Bool[Tensor, "n d"] | None:
    fits = sample.mask is not None and sample.mask.shape == sample.x.shape
    return sample.mask.reshape(len(sample), -1) if sample.mask is not None and fits else None


def rms(a: Sample, b: Sample) -> Float[Tensor, "n"]:
    """Root mean square of a_k − b_k over the coordinates that are data in both, (n,) float64.

    Args:
        a: Points, (n, *D).
        b: Points, (n, *D).
    """
    square = (rows(a.x) - rows(b.x)).square()
    known = torch.ones_like(square)
    for mask in (_weights(a), _weights(b)):
        known = known if mask is None else known * mask
    return ((square * known).sum(1) / known.sum(1)).sqrt()


def ranks(x: Sample, targets: Sample, partner: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Rank of the partner of every point among targets by distance, (n,) float64: 1 is the nearest.

    Of k targets at one distance each has the mean of their ranks, so that a point which is equally far from all m
    targets has the rank (m + 1)/2, that of a random order.

    Args:
        x: Points, (n, *D).
        targets: All targets, (m, *D).
        partner: The row of ``targets`` that is the partner of every point, (n,).
    """
    found = []
    for at in torch.arange(len(x), device=x.x.device).split(CHUNK):
        gaps, scale = mean_squares(x[at], targets)
        own = gaps.gather(1, partner[at][:, None])
        same = (gaps - own).abs() <= 1e-10 * scale
        found.append(1 + ((gaps < own) & ~same).sum(1) + (same.sum(1) - 1) / 2)
    return torch.cat(found).double()


def item_numbers(table: ItemTable, measured: Mapping[str, float]) -> dict[str, float]:
    """Means of the columns with sampling errors over files, by name.

    Names: ``item_<column>`` and ``item_<column>_se``, both with ``_untranslated`` where there is such a column; of
    columns that are metrics the error alone, as ``class_preservation_se``. ``item_rank_chance`` is (m + 1)/2 of m
    targets, ``item_rank_of`` is m, ``item_n`` the number of items.

    Args:
        table: The items.
        measured: The metrics of the same evaluation.
    """
    found: dict[str, float] = {"item_n": len(table.names)}
    groups = table.groups
    for column, values in table.numbers.items():
        base = column.removesuffix(UNTRANSLATED)
        which, metric = column[len(base) :], METRICS.get(base, "")
        known = values.isfinite()
        if not bool(known.any()):
            continue
        of = [group for group, is_known in zip(groups, known.tolist(), strict=True) if is_known]
        mean, name = estimate(values[known], of), metric if metric in measured else f"item_{base}"
        if metric not in measured:
            found[f"{name}{which}"] = mean.mean
        if math.isfinite(mean.se):
            found[f"{name}_se{which}"] = mean.se
    if table.candidates:
        found |= {"item_rank_chance": (table.candidates + 1) / 2, "item_rank_of": table.candidates}
    return found


def read_items(text: str, path: str) -> ItemTable:
    """The table that ``ItemTable.as_csv`` wrote.

    Args:
        text: The text of the file.
        path: The file, for messages.

    Raises:
        FlowportError: For what is no such table.
    """
    try:
        head, *lines = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise FlowportError(f"{path} is no table of items: {error}") from None
    if head[:1] != ["item"] or len(set(head)) != len(head) or any(len(line) != len(head) for line in lines):
        raise FlowportError(f"{path} is no table of items: its columns begin with item, one cell each in every row")
    columns = dict(zip(head, zip(*lines, strict=True), strict=True)) if lines else {}
    names = [_plain(cell) for cell in columns.pop("item", ())]
    if not names or len(set(names)) != len(names):
        raise FlowportError(f"{path} is no table of items: it needs one row or more, and every item once")
    text_columns = ("partner", "class", "class_after")
    words = {name: [_plain(c) for c in cells] for name, cells in columns.items() if name in text_columns}
    numbers = {name: _numbers(cells, name, path) for name, cells in columns.items() if name not in text_columns}
    return ItemTable(names, words, numbers)


def _plain(cell: str) -> str:
    return printable(cell[1:] if re.match(r"'[=+\-@]", cell) else cell)


def _numbers(cells: tuple[str, ...], name: str, path: str) -> Tensor:
    try:
        values = torch.tensor([float(cell) if cell else math.nan for cell in cells], dtype=torch.float64)
    except ValueError:
        raise FlowportError(f"{path} has cells in its column {name} that are no numbers") from None
    if bool(values.isinf().any()):
        raise FlowportError(f"{path} has infinite numbers in its column {name}")
    return values


def write_confusion(counts: Mapping[str, Counter[str]], after: list[str], table: Path, picture: Path | None) -> None:
    """Write how many items of each class were translated into each class, as csv and as a picture.

    Args:
        counts: Numbers of items by class before and class after.
        after: Names of the classes after, in the order of the columns.
        table: File of the csv.
        picture: File of the picture, .png; None: no picture.
    """
    out = io.StringIO(newline="")
    csv.writer(out).writerows(
        [
            ["class", *map(no_formula, map(printable, after))],
            *([no_formula(printable(name)), *(row[k] for k in after)] for name, row in counts.items()),
        ]
    )
    write_atomically(table, lambda place: place.write_text(out.getvalue(), newline=""))
    if picture is not None:
        draw_confusions({"": counts}, after, picture)


def draw_confusions(panels: Mapping[str, Mapping[str, Counter[str]]], after: list[str], picture: Path) -> None:
    """Draw one panel per confusion: rows are classes before, columns after, the colour is the share of the row.

    Args:
        panels: Numbers of items by class before and class after, by the title of the panel.
        after: Names of the classes after.
        picture: File of the picture, .png.
    """
    from matplotlib.figure import Figure

    most = max(len(counts) for counts in panels.values())
    side = (0.42 * len(after) + 1.6, 0.42 * most + 1.4)
    figure = Figure(figsize=(side[0] * len(panels) + 0.4, side[1] + 0.3))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, counts) in zip(axes, panels.items(), strict=True):
        grid = torch.tensor([[float(row[k]) for k in after] for row in counts.values()])
        axis.imshow((grid / grid.sum(1, keepdim=True).clamp_min(1)).numpy(), cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(grid.tolist()):
            for j, number in enumerate(row):
                colour = "white" if number > 0.6 * sum(row) else "#333333"
                axis.text(j, i, f"{number:g}" if number else "", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(after)), [_shown(name) for name in after], fontsize=7, rotation=90)
        axis.set_yticks(range(len(counts)), [_shown(name) for name in counts], fontsize=7)
        axis.set_xlabel("class after", fontsize=8)
        axis.set_ylabel("class before", fontsize=8)
        axis.set_title(_shown(title, 40), fontsize=9)
    figure.tight_layout()
    write_atomically(picture, lambda place: figure.savefig(place, dpi=110, format="png", bbox_inches="tight"))


def _shown(name: str, most: int = 14) -> str:
    """A name for a picture, short and without mathematics."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", "\\$")
