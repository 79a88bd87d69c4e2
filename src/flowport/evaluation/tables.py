"""Tables of metrics for the terminal."""

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowport.errors import printable


def table(numbers: Mapping[str, Any], title: str = "") -> str:
    """A terminal table with one row per metric: value, floor, untranslated and retrieved, each ± its sampling error.

    Args:
        numbers: Values by name.
        title: Title of the table.
    """
    sheet = Table(title=escape(printable(title)), title_justify="left")
    for column in ("metric", "value", "floor", "untranslated", "retrieved"):
        sheet.add_column(column, justify="left" if column == "metric" else "right")
    beside = ("_floor", "_untranslated", "_retrieved")
    for name, value in numbers.items():
        if _belongs(name, numbers, beside):
            continue
        cells = {"": value, **{suffix: numbers.get(name + suffix) for suffix in beside}}
        errors = {suffix: numbers.get(f"{name}_se{suffix}") for suffix in cells}
        sheet.add_row(
            escape(printable(name)),
            *(
                shown(cell)
                + (f" ± {errors[suffix]:.3g}" if cell is not None and isinstance(errors[suffix], float) else "")
                for suffix, cell in cells.items()
            ),
        )
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


def _belongs(name: str, numbers: Mapping[str, Any], beside: tuple[str, ...]) -> bool:
    """Whether a number is shown in the row of another one: it is a baseline or an error."""
    base = next((name.removesuffix(suffix) for suffix in beside if name.endswith(suffix)), name)
    of = base.removesuffix("_se")
    return (base != name and base in numbers) or (of != base and of + name[len(base) :] in numbers)


def no_formula(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula: text that begins like one gets an apostrophe.

    Args:
        cell: The text.
    """
    number = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?( ± [\d.]+)?", cell)
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) and not number else cell
