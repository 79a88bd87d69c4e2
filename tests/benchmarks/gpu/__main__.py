"""Runs parts in processes of their own, keeps what each found, and merges all of it into one table.

``python -m tests.benchmarks.gpu`` runs every part, ``… list`` names them, ``… <part> <part>`` runs some; parts that
were run before stay in the table. It installs nothing. ``--cpu`` runs the smallest form of a part without a GPU, to see
that it works: its figures say nothing.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.benchmarks.gpu.parts import PARTS, TRAINER
from tests.benchmarks.table import OUTPUTS, Cell, report

MINUTES = 8
"""A part that takes longer is stopped, and the table says so."""


def kept(cpu: bool) -> Path:
    """The folder of what the parts found."""
    return OUTPUTS / ("gpu_on_cpu" if cpu else "gpu")


def where() -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{card}, {platform.node()}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def run(name: str, cpu: bool) -> None:
    """One part in this process; its rows go to a file."""
    trainer, window = (["trainer=cpu"], 2) if cpu else (TRAINER, 100)
    began = time.perf_counter()
    rows = PARTS[name](trainer, window)
    found = {"part": name, "where": where(), "seconds": time.perf_counter() - began, "rows": rows}
    kept(cpu).mkdir(parents=True, exist_ok=True)
    (kept(cpu) / f"{name}.json").write_text(json.dumps(found, indent=1))


def started(name: str, cpu: bool) -> bool:
    """One part in a process of its own; whether it ended well."""
    print(f"{name} …", flush=True)
    (kept(cpu) / f"{name}.json").unlink(missing_ok=True)
    words = [sys.executable, "-m", "tests.benchmarks.gpu", "--inside", name, *(["--cpu"] if cpu else [])]
    part = subprocess.Popen(words, start_new_session=True)
    try:
        code = part.wait(60 * MINUTES)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as problem:
        os.killpg(part.pid, signal.SIGKILL)  # with what it started, which would disturb the next part
        if isinstance(problem, KeyboardInterrupt):
            raise
        print(f"{name}: stopped after {MINUTES} minutes", flush=True)
        return False
    if code:
        print(f"{name}: exit {code}", flush=True)
    return code == 0


def merged(cpu: bool) -> None:
    """The table of all parts that were run."""
    table: list[dict[str, Cell]] = []
    places = set()
    for name in PARTS:
        file = kept(cpu) / f"{name}.json"
        if file.is_file():
            found = json.loads(file.read_text())
            places.add(found["where"])
            for one in found["rows"]:
                met = {None: "", True: "yes", False: "**no**"}[None if cpu else one["met"]]
                table.append({"part": name, **{k: one[k] for k in ("what", "value", "unit", "wanted")}, "met": met})
    if table:
        title = "The parts of make gpu on a CPU, whose figures say nothing" if cpu else "On a GPU"
        report(kept(cpu).name, title, table, "; ".join(sorted(places)))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args(words)
    if given.inside:
        run(given.inside, given.cpu)
        return 0
    if given.parts == ["list"]:
        print("\n".join(PARTS))
        return 0
    if unknown := [name for name in given.parts if name not in PARTS]:
        raise SystemExit(f"there is no part called {unknown[0]}; there are {', '.join(PARTS)}")
    if not given.cpu and not torch.cuda.is_available():
        raise SystemExit("make gpu needs a machine with CUDA; --cpu runs the smallest form of every part")
    failed = [name for name in given.parts or PARTS if not started(name, given.cpu)]
    merged(given.cpu)
    if failed:
        print(f"not measured: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
