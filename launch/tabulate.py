"""A sweep as one table: terminal, table.csv, table.md and table.png in the sweep's folder.

python launch/tabulate.py outputs/sweep/two_dimensions/<time> --metrics w2 npe
python launch/tabulate.py outputs/sweep/samplers_by_nfe/<time> --metrics fd_mnist --against nfe
"""

import argparse
from pathlib import Path

from flowport.run.cli import report_errors


def main() -> None:
    """Read the finished runs of a sweep, print and write the table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("folder", type=Path, help="the folder that a multirun wrote")
    words.add_argument("--metrics", nargs="*", default=[], help="columns, for instance w2 npe; default: all of test/")
    words.add_argument("--against", help="draw the metrics over this one, a line for every setting: for instance nfe")
    given = words.parse_args()
    with report_errors():
        from flowport.evaluation import sweep_table

        sheet = sweep_table.read(given.folder, [*given.metrics, *([given.against] if given.against else [])])
        sweep_table.write(sheet, given.folder, given.against)
        print(sheet.markdown())


if __name__ == "__main__":
    main()
