"""Parts of the page of a study as HTML and as Markdown, in which no name is markup."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

from flowport.errors import printable


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
        cells = [[_bold(escape(printable(cell))) for cell in row] for row in self.rows]
        if self.kind == "answer":
            return '<div class="answer">' + "".join(f"<p>{row[0]}</p>" for row in cells) + "</div>"
        if self.kind == "table":
            head = "".join(f"<th>{cell}</th>" for cell in cells[0])
            body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[1:])
            return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
        tag = {"title": "h1", "head": "h2"}.get(self.kind, "p")
        return f"<{tag} class={self.kind}>{text}</{tag}>"

    def markdown(self) -> str:
        """The block as Markdown, in which no text is markup; media are on the HTML page alone."""
        text = _plain(self.text)
        if self.kind == "picture" and self.picture is not None:
            return f"![{text}]({self.picture.name})"
        if self.kind == "media":
            return f"{text} (in study.html)"
        cells = [[_plain(cell) for cell in row] for row in self.rows]
        if self.kind == "answer":
            return "\n".join(f"* {row[0]}" for row in cells)
        if self.kind == "table":
            rule = ["---", *["---:"] * (len(cells[0]) - 1)]
            return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
        return {"title": "# ", "head": "## "}.get(self.kind, "") + text


def _bold(cell: str) -> str:
    marked = cell.startswith("**") and cell.endswith("**") and len(cell) > 4
    return f"<b>{cell[2:-2]}</b>" if marked else cell


def _plain(text: str) -> str:
    flat = escape(" ".join(printable(text).split()))
    for mark in "\\|`*":
        flat = flat.replace(mark, f"&#{ord(mark)};")
    return flat.replace("](", "]&#40;")
