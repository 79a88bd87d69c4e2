"""Numbers as people read them."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def table(numbers: Mapping[str, Any], title: str = "") -> str:
    """A terminal table of metrics: one row a metric, its floor and its do-nothing value beside it."""
    sheet = Table(title=title, title_justify="left")
    for column in ("metric", "value", "floor", "untranslated", "retrieved"):
        sheet.add_column(column, justify="left" if column == "metric" else "right")
    beside = ("_floor", "_untranslated", "_retrieved")
    for name, value in numbers.items():
        if any(name.endswith(suffix) and name.removesuffix(suffix) in numbers for suffix in beside):
            continue
        sheet.add_row(name, shown(value), *(shown(numbers.get(name + suffix)) for suffix in beside))
    console = Console(width=110)
    with console.capture() as capture:
        console.print(sheet)
    return capture.get()


def shown(value: Any) -> str:
    """A number to four significant digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
