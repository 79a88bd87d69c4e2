"""The page of a study: study.html, which holds its pictures and needs no network, and study.md beside them."""

import base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from flowport.cache import write_atomically
from flowport.errors import member_name
from flowport.evaluation import study_media
from flowport.evaluation.items import draw_confusions
from flowport.evaluation.learnt import REST, SLACK, distance_of
from flowport.evaluation.study import (
    COLUMNS,
    IDLE,
    LEVEL,
    Comparison,
    Study,
    StudyRun,
    interval,
    realism,
)
from flowport.evaluation.study_block import Block
from flowport.evaluation.study_pictures import confusions, draw_bars, draw_examples

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0;font-size:.92rem}td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem}
th{text-align:left;background:#f5f6f7}.number{text-align:right}img{max-width:100%}h1{font-size:1.5rem}
h2{font-size:1.15rem;margin-top:1.8rem}.answer{background:#eef5f0;border-left:4px solid #2f7d4f;padding:.5rem 1rem}
.note{color:#666;font-size:.9rem}.wide{overflow-x:auto}.media td{text-align:left;vertical-align:middle;padding:.15rem}
audio{width:11rem;height:2rem}canvas{touch-action:none;cursor:grab}"""
MOST_CLASSES = 40
"""Largest number of classes whose confusion is drawn."""


CLASSES: tuple[str, ...] = ("source", "target", "space", "pairing", "coupling", "path", "network", "prediction")
CLASSES = (*CLASSES, "conditioning", "objective", "optimizer", "solver", "volatility")
"""Choices of a class, which the configs call by another name."""
FIXED = (*CLASSES, "data.batch", "trainer.max_steps", "grid.steps")
"""Choices that are told as the setting, where all runs share them."""
LIMITS = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
"""The policy of the page: nothing is fetched, and no other script runs."""


def write(study: Study, folder: Path, extra: Sequence[Block] = ()) -> Path:
    """Write study.html, study.md and the pictures of the latter.

    Args:
        study: The study.
        folder: Where they go.
        extra: Parts that stand behind the answer, as the table of the sweep.

    Returns:
        The file study.html.
    """
    blocks = [*_opening(study), *extra, *_pictures(study, folder)]
    for one in study.comparisons:
        blocks += _section(study, one)
        blocks += study_media.over_bound(study) if one.column == "transport_cost" else []
    blocks += [*study_media.histograms(study, folder), *_realism(study), *study_media.spent(study), *_closing(study)]
    return write_blocks(blocks, folder)


def write_blocks(blocks: Sequence[Block], folder: Path) -> Path:
    """Write parts of a page as study.html and study.md.

    Args:
        blocks: The parts.
        folder: Where they go.

    Returns:
        The file study.html.
    """
    body = "\n".join(block.html() for block in blocks)
    digest = base64.b64encode(sha256(study_media.SCRIPT.encode()).digest()).decode()
    policy = f'<meta http-equiv="Content-Security-Policy" content="{LIMITS.format(digest=digest)}">'
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{policy}<title>Study</title><style>{STYLE}</style>'
    script = f"<script>{study_media.SCRIPT}</script>\n" if "data-cloud=" in body else ""
    page = f"{head}\n{body}\n{script}</html>\n"
    text = "\n\n".join(block.markdown() for block in blocks) + "\n"
    write_atomically(folder / "study.md", lambda place: place.write_text(text))
    write_atomically(folder / "study.html", lambda place: place.write_text(page))
    return folder / "study.html"


def _opening(study: Study) -> list[Block]:
    settings = ", ".join(f"{label} ({_runs(len(group))})" for label, group in study.groups.items())
    content = [one for one in study.comparisons if COLUMNS[one.column].content]
    lines = [*_unlearnt(study), *(_claim(study, one) for one in content)]
    if not content:
        lines += [
            "These data have neither items of equal names on both sides nor classes that a metric reads, so what is "
            "preserved cannot be measured; how far items are moved can.",
            *(_claim(study, one) for one in study.comparisons),
        ]
    return [
        Block("title", _question(study)),
        Block("text", f"Compared on {study.items} held-out items that training has not seen: {settings}."),
        *_fixed(study),
        Block("answer", rows=tuple((line,) for line in lines)),
        Block(
            "note",
            f"[a, b] is the {100 * LEVEL:g} % interval of a mean over items. The value of an item is its mean over the "
            "seeds of a setting; items, whole files where one file gives several, are drawn again with replacement, "
            "the same ones for all settings (paired bootstrap). Intervals of differences between settings hold for all "
            "pairs of settings together (Bonferroni). The intervals are about other items of the same kind, not about "
            "training again, which the means of the single seeds show; a setting is called better where the interval "
            f"of the difference leaves out 0 and every seed agrees.{_rule(study)}",
        ),
    ]


def _unlearnt(study: Study) -> list[str]:
    """Which settings have not learnt their target, with the numbers."""
    far = [
        f"{label} ({gap.name} {gap.now:.3g}; untranslated items {gap.before:.3g}, real ones {gap.floor:.3g})"
        for label, gap in study.unlearnt.items()
    ]
    verb = "has not learnt its target" if len(far) == 1 else "have not learnt their target"
    return [f"{len(far)} of {_settings(len(study.groups))} {verb}: {', '.join(far)}."] if far else []


def _claim(study: Study, one: Comparison) -> str:
    """What is said of a number, with the doubt where the setting that it names has not learnt its target."""
    doubt = f" But {one.best} has not learnt its target." if one.best in study.unlearnt else ""
    return one.sentence() + one.beside_idle() + doubt


def _rule(study: Study) -> str:
    """When a setting has learnt its target, as far as it is known."""
    known = [all(distance_of(run.numbers) is not None for run in group) for group in study.groups.values()]
    rule = (
        f" A setting has learnt its target where at most {REST:g} is left of the way from untranslated items to the "
        f"floor (real target items) of its distance to the target, or this is at most {SLACK:g} times the floor."
    )
    unknown = f" Of {known.count(False)} of {_settings(len(known))} no distance with a floor is known."
    return (rule if any(known) else "") + ("" if all(known) else unknown)


def _settings(number: int) -> str:
    return f"{number} setting" + ("s" if number > 1 else "")


def _runs(number: int) -> str:
    return f"{number} run" + ("s" if number > 1 else "")


def _shared(study: Study) -> dict[str, str]:
    """The choices that all runs have in common, in the words that a user types."""
    runs = [run for group in study.groups.values() for run in group]
    first = runs[0].choices
    same = {key: value for key, value in first.items() if all(run.choices.get(key) == value for run in runs)}
    words = {key: _word(key, value, runs) if key in CLASSES else value for key, value in same.items()}
    return {key: word for key, word in words.items() if word}


def _word(key: str, value: str, runs: Sequence[StudyRun]) -> str:
    """The config's name of a class of all runs: the word that was given, or its own; empty where the words differ."""
    family = "distribution" if key in ("source", "target") else key
    given = {run.settings.get(key if family == key else f"{family}@{key}") for run in runs}
    own = value.lower() if family == "optimizer" else member_name(value, family)  # torch.optim names no members
    return "" if len(given) > 1 else given.pop() or own


def _question(study: Study) -> str:
    shared, labels = _shared(study), list(study.groups)
    keys = list(dict.fromkeys(word.partition("=")[0] for label in labels for word in label.split() if "=" in word))
    if not {"source", "target"} <= shared.keys() or not keys or len(labels) < 2:
        return "Which setting preserves content best?"
    sides = f" from {shared['source']} to {shared['target']}" if shared["source"] != shared["target"] else ""
    return f"How does the translation{sides} depend on {', '.join(keys)}?"


def _fixed(study: Study) -> list[Block]:
    shared = _shared(study)
    told = [f"{key} {shared[key]}" for key in FIXED if shared.get(key)]
    return [Block("text", "All runs share: " + ", ".join(told) + ".")] if told else []


def _pictures(study: Study, folder: Path) -> list[Block]:
    blocks = [Block("head", "the same items by every setting")] if study.comparisons else []
    blocks += [*study_media.plane(study, folder), *study_media.sounds(study), *study_media.clouds(study)]
    if study.comparisons:
        draw_bars(study, folder / "study_bars.png")
        caption = "Means over items with their intervals; grey are untranslated items."
        if any(study.marks(one) for one in study.comparisons):
            caption += " Green is the best mean, where its setting has learnt its target."
        blocks.append(Block("picture", caption, picture=folder / "study_bars.png"))
    flat = any(block.picture and block.picture.name == "study_plane.png" for block in blocks)
    names = [] if flat else draw_examples(study, folder / "study_items.png")
    if names:
        caption = "The same held-out items before and after, by the first run of each setting: " + ", ".join(names)
        blocks.append(Block("picture", caption, picture=folder / "study_items.png"))
    for label, group in study.groups.items():
        if "ways" in group[0].pictures:
            caption = f"Trajectories of these items by {label}: from the source (first row) to the translation (last)."
            blocks.append(Block("picture", caption, picture=group[0].pictures["ways"]))
    panels, after = confusions(study)
    if panels and len(after) <= MOST_CLASSES:
        draw_confusions(panels, after, folder / "study_confusion.png")
        caption = "Which class (row) became which class (column) by the classifier of the target: numbers of items."
        blocks.append(Block("picture", caption, picture=folder / "study_confusion.png"))
    return blocks


def _section(study: Study, one: Comparison) -> list[Block]:
    number = COLUMNS[one.column]
    head = ("setting", "mean and interval", "seeds", f"minus {one.best}", f"minus {IDLE}")
    rows = [
        (
            label,
            interval(value),
            ", ".join(f"{mean:.3g}" for mean in one.seeds[label]),
            interval(one.from_best[label], signed=True) if label in one.from_best else "",
            interval(one.from_idle[label], signed=True) if label in one.from_idle else "",
        )
        for label, value in one.values.items()
    ]
    if one.idle is not None:
        rows.append((IDLE, interval(one.idle), "", "", ""))
    rows += [(name, f"{value:.3g}", "", "", "") for name, value in one.lines.items()]
    rows += [(f"least of any pairing of the points of {name}", f"{v:.3g}", "", "", "") for name, v in one.least.items()]
    filled = [k for k in range(len(head)) if k == 0 or any(row[k] for row in rows)]
    table = tuple(tuple(row[k] for k in filled) for row in (head, *rows))
    used = next(iter(one.values.values()))
    meaning = f"{number.title[0].upper()}{number.title[1:]} is the {number.meaning}."
    return [
        Block("head", number.title),
        Block("text", f"{meaning} Over {used.items} items of {used.groups} files."),
        Block("text", _claim(study, one)),
        Block("table", rows=table),
    ]


def _realism(study: Study) -> list[Block]:
    head, rows = realism(study)
    if not rows:
        return []
    return [
        Block("head", "realism"),
        Block(
            "text",
            "How much the translations as a set look like real target items: distances between the two sets, mean ± "
            "standard error over seeds. The floor is the distance of further real items of the same held-out set, in "
            "the place of the translations. A setting that preserves content but is far above the floor does not "
            "translate.",
        ),
        Block("table", rows=(tuple(head), *map(tuple, rows))),
    ]


def _closing(study: Study) -> list[Block]:
    notes = [f"Left out: {note}." for note in study.notes]
    return [Block("head", "notes"), *(Block("note", note) for note in notes)] if notes else []
