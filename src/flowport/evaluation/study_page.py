"""The page of a study: study.html, which holds its pictures and needs no network, and study.md beside them."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

from flowport.cache import write_atomically
from flowport.errors import printable
from flowport.evaluation.items import draw_confusions
from flowport.evaluation.study import (
    COLUMNS,
    IDLE,
    LEVEL,
    Comparison,
    Study,
    confusions,
    draw_bars,
    draw_examples,
    interval,
    realism,
)

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0;font-size:.92rem}td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem}
th{text-align:left;background:#f5f6f7}td+td,th+th{text-align:right}img{max-width:100%}h1{font-size:1.5rem}
h2{font-size:1.15rem;margin-top:1.8rem}.answer{background:#eef5f0;border-left:4px solid #2f7d4f;padding:.5rem 1rem}
.note{color:#666;font-size:.9rem}"""
MOST_CLASSES = 40
"""Largest number of classes whose confusion is drawn."""


@dataclass(frozen=True)
class Block:
    """A part of the page.

    Args:
        kind: ``"title"``, ``"head"``, ``"text"``, ``"note"``, ``"answer"``, ``"table"`` or ``"picture"``.
        text: Its text, or the caption of a picture.
        rows: Rows of a table with its head, or the lines of an answer.
        picture: File of a picture.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    picture: Path | None = None

    def html(self) -> str:
        """The block as HTML, in which no text is markup."""
        text = escape(printable(self.text))
        if self.kind == "picture" and self.picture is not None:
            data = base64.b64encode(self.picture.read_bytes()).decode()
            return f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p><p class="note">{text}</p>'
        cells = [[escape(printable(cell)) for cell in row] for row in self.rows]
        if self.kind == "answer":
            return '<div class="answer">' + "".join(f"<p>{row[0]}</p>" for row in cells) + "</div>"
        if self.kind == "table":
            head = "".join(f"<th>{cell}</th>" for cell in cells[0])
            body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[1:])
            return f"<table><tr>{head}</tr>{body}</table>"
        tag = {"title": "h1", "head": "h2"}.get(self.kind, "p")
        return f"<{tag} class={self.kind}>{text}</{tag}>"

    def markdown(self) -> str:
        """The block as Markdown, in which no text is markup."""
        text = _plain(self.text)
        if self.kind == "picture" and self.picture is not None:
            return f"![{text}]({self.picture.name})"
        cells = [[_plain(cell) for cell in row] for row in self.rows]
        if self.kind == "answer":
            return "\n".join(f"* {row[0]}" for row in cells)
        if self.kind == "table":
            rule = ["---", *["---:"] * (len(cells[0]) - 1)]
            return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
        return {"title": "# ", "head": "## "}.get(self.kind, "") + text


def _plain(text: str) -> str:
    flat = escape(" ".join(printable(text).split()))
    for mark in "\\|`*":
        flat = flat.replace(mark, f"&#{ord(mark)};")
    return flat.replace("](", "]&#40;")


def write(study: Study, folder: Path) -> Path:
    """Write study.html, study.md and the pictures of the latter.

    Args:
        study: The study.
        folder: Where they go.

    Returns:
        The file study.html.
    """
    blocks = [*_opening(study), *_pictures(study, folder)]
    for one in study.comparisons:
        blocks += _section(one)
    blocks += [*_realism(study), *_closing(study)]
    body = "\n".join(block.html() for block in blocks)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Study</title><style>{STYLE}</style>'
    page = f"{head}\n{body}\n</html>\n"
    text = "\n\n".join(block.markdown() for block in blocks) + "\n"
    write_atomically(folder / "study.md", lambda place: place.write_text(text))
    write_atomically(folder / "study.html", lambda place: place.write_text(page))
    return folder / "study.html"


def _opening(study: Study) -> list[Block]:
    settings = ", ".join(f"{label} ({len(group)} runs)" for label, group in study.groups.items())
    content = [one for one in study.comparisons if COLUMNS[one.column].content]
    lines = [one.sentence() + one.beside_idle() for one in content]
    if not content:
        lines = [
            "These data have neither items of equal names on both sides nor classes that a metric reads, so what is "
            "preserved cannot be measured; how far items are moved can.",
            *(one.sentence() for one in study.comparisons),
        ]
    return [
        Block("title", "Which setting preserves content best?"),
        Block("text", f"Compared on {study.items} held-out items that training has not seen: {settings}."),
        Block("answer", rows=tuple((line,) for line in lines)),
        Block(
            "note",
            f"[a, b] is the {100 * LEVEL:g} % interval of a mean over items. The value of an item is its mean over the "
            "seeds of a setting; items, whole files where one file gives several, are drawn again with replacement, "
            "the same ones for all settings (paired bootstrap). Intervals of differences between settings hold for all "
            "pairs of settings together (Bonferroni). The intervals are about other items of the same kind, not about "
            "training again, which the means of the single seeds show; a setting is called better where the interval "
            "of the difference leaves out 0 and every seed agrees.",
        ),
    ]


def _pictures(study: Study, folder: Path) -> list[Block]:
    blocks = []
    if study.comparisons:
        draw_bars(study, folder / "study_bars.png")
        caption = "Means over items with their intervals: green the best mean, grey the untranslated items."
        blocks.append(Block("picture", caption, picture=folder / "study_bars.png"))
    names = draw_examples(study, folder / "study_items.png")
    if names:
        caption = "The same held-out items before and after, by the first run of each setting: " + ", ".join(names)
        blocks.append(Block("picture", caption, picture=folder / "study_items.png"))
    panels, after = confusions(study)
    if panels and len(after) <= MOST_CLASSES:
        draw_confusions(panels, after, folder / "study_confusion.png")
        caption = "Which class (row) became which class (column) by the classifier of the target: numbers of items."
        blocks.append(Block("picture", caption, picture=folder / "study_confusion.png"))
    return blocks


def _section(one: Comparison) -> list[Block]:
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
    used = next(iter(one.values.values()))
    meaning = f"{number.title[0].upper()}{number.title[1:]} is the {number.meaning}."
    return [
        Block("head", number.title),
        Block("text", f"{meaning} Over {used.items} items of {used.groups} files."),
        Block("text", one.sentence() + one.beside_idle()),
        Block("table", rows=(head, *rows)),
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
