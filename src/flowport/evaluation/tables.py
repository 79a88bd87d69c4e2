"""Tables of metrics for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowport.errors import printable


def table(numbers: Mapping[str, Any], title: str = "") -> str:
    """A terminal table with one row per metric: value, floor, untranslated and retrieved.

    Args:
        numbers: Values by name.
        title: Title of the table.
    """
    sheet = Table(title=escape(printable(title)), title_justify="left")
    for column in ("metric", "value", "floor", "untranslated", "retrieved"):
        sheet.add_column(column, justify="left" if column == "metric" else "right")
    beside = ("_floor", "_untranslated", "_retrieved")
    for name, value in numbers.items():
        if any(name.endswith(suffix) and name.removesuffix(suffix) in numbers for suffix in beside):
            continue
        sheet.add_row(escape(printable(name)), shown(value), *(shown(numbers.get(name + suffix)) for suffix in beside))
    console = Console(width=110)
    with console.capture() as capture:
        console.print(sheet)
    return capture.get()


def shown(value: Any) -> str:
    """A number with four significant digits; empty for None.

    Args:
        value: A number, text or None.
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(printable(str(value)))
