"""Parts of the page of a study as HTML and as Markdown, in which no name is markup."""

import base64
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from flowport.errors import printable

NUMBER = re.compile(r"(\*\*)?[+−-]?(\.?\d|inf|nan)")
"""How a cell begins that holds a number."""


@dataclass(frozen=True)
class Block:
    """A part of the page.

    Args:
        kind: ``"title"``, ``"head"``, ``"text"``, ``"note"``, ``"answer"``, ``"table"``, ``"picture"`` or ``"media"``.
        text: Its text, or the caption of a picture or of media.
        rows: Rows of a table with its head, in which ``**`` on both sides of a cell makes it bold; or the lines of an
            answer.
        picture: File of a picture.
        html_rows: Rows of media as HTML that holds no name, each behind its plain name.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    picture: Path | None = None
    html_rows: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def html(self) -> str:
        """The block as HTML, in which no text is markup."""
        text = escape(printable(self.text))
        if self.kind == "picture" and self.picture is not None:
            data = base64.b64encode(self.picture.read_bytes()).decode()
            return f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p><p class="note">{text}</p>'
        if self.kind == "media":
            lines = ((escape(printable(name)), cells) for name, cells in self.html_rows)
            body = "".join(
                f"<tr><td>{name}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>" for name, cells in lines
            )
            return f'<table class="media">{body}</table><p class="note">{text}</p>'
        if self.kind == "answer":
            told = "".join(f"<p>{escape(printable(row[0]))}</p>" for row in self.rows)
            return f'<div class="answer">{told}</div>'
        if self.kind == "table":
            right = self._numeric
            table = "".join(_row(row, right, "td" if number else "th") for number, row in enumerate(self.rows))
            return f'<div class="wide"><table>{table}</table></div>'
        tag = {"title": "h1", "head": "h2"}.get(self.kind, "p")
        return f"<{tag} class={self.kind}>{text}</{tag}>"

    @property
    def _numeric(self) -> list[bool]:
        """Which columns of the table hold numbers: all cells that are not empty begin like one, but for the first."""
        columns = list(zip(*self.rows[1:], strict=True)) or [()] * len(self.rows[0])
        return [k > 0 and all(NUMBER.match(cell) for cell in column if cell) for k, column in enumerate(columns)]

    def markdown(self) -> str:
        """The block as Markdown, in which no text is markup; media are on the HTML page alone."""
        text = _plain(self.text)
        if self.kind == "picture" and self.picture is not None:
            return f"![{text}]({self.picture.name})"
        if self.kind == "media":
            return f"{text} (in study.html)"
        if self.kind == "answer":
            return "\n".join(f"* {_plain(row[0])}" for row in self.rows)
        if self.kind == "table":
            head, *body = [[_marked(cell) for cell in row] for row in self.rows]
            rule = ["---:" if right else "---" for right in self._numeric]
            return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
        return {"title": "# ", "head": "## "}.get(self.kind, "") + text


def _row(row: tuple[str, ...], right: list[bool], tag: str) -> str:
    """A row of a table as HTML, whose numbers are on the right."""
    cells = ""
    for cell, is_number in zip(row, right, strict=True):
        text, bold = _unmarked(cell)
        shown, kind = escape(printable(text)), ' class="number"' if is_number else ""
        cells += f"<{tag}{kind}>{f'<b>{shown}</b>' if bold else shown}</{tag}>"
    return f"<tr>{cells}</tr>"


def _unmarked(cell: str) -> tuple[str, bool]:
    """A cell without the stars on both its sides, and whether it had them, which makes it bold."""
    bold = cell.startswith("**") and cell.endswith("**") and len(cell) > 4
    return (cell[2:-2], True) if bold else (cell, False)


def _marked(cell: str) -> str:
    text, bold = _unmarked(cell)
    return f"**{_plain(text)}**" if bold else _plain(text)


def _plain(text: str) -> str:
    flat = escape(" ".join(printable(text).split()), quote=False)
    for mark in "\\|`*":
        flat = flat.replace(mark, f"&#{ord(mark)};")
    return flat.replace("](", "]&#40;")
