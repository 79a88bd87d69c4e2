"""A sweep as one table: terminal, table.csv, table.md and table.png in the sweep's folder.

python launch/tabulate.py outputs/sweep/two_dimensions/<time> --metrics w2 npe
"""

import argparse
from pathlib import Path

from flowport.command import refusals_told


def main() -> None:
    """Read the finished runs of a sweep, print and write the table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path, help="the folder that a multirun wrote")
    words.add_argument("--metrics", nargs="*", default=[], help="columns, for instance w2 npe; default: all of test/")
    given = words.parse_args()
    with refusals_told():
        from flowport import tabulate

        sheet = tabulate.read(given.folder, given.metrics)
        tabulate.write(sheet, given.folder)
        print(sheet.markdown())


if __name__ == "__main__":
    main()
