"""Kills of one sweep at random moments: ``python -m tests.benchmarks.kills <folder> --kills 20 --seed 0``.

Every kill is a SIGKILL of the sweep's own process or of one of its workers, some seconds after the one before. Where
the sweep has ended by it, the same command runs again. At the end its table must equal that of a sweep that nobody
killed, but for time, memory and host, no finished job may have run again, and every step must stand once in the events.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas

from tests import runs
from tests.run.slow_sweep import steps_of, table

WORDS = [*runs.TINY, runs.QUIET, "gallery=false", "coupling=exact,independent", "seed=0,1,2,3", "jobs=2"]
WORDS += ["checkpoint_every=100", "trainer.log_every_n_steps=10"]


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(runs.ROOT / "launch" / script), *words]


def workers_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(place.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(place.parent.name))
    return found


def finished(folder: Path) -> Iterator[Path]:
    for status in folder.glob("*/status.json"):
        if json.loads(status.read_text())["state"] == "finished":
            yield status.parent


def torment(folder: Path, words: list[str], kills: int, chance: random.Random) -> int:
    """Kill a sweep until it has ended; returns the number of kills."""
    place, variables = folder.parent, {**os.environ, "OMP_NUM_THREADS": "1"}
    done, times = 0, dict[Path, int]()
    while True:
        with (place / "said.txt").open("ab") as said:
            parent = subprocess.Popen(command("train.py", *words), cwd=place, env=variables, stdout=said, stderr=said)
        while parent.poll() is None:
            until = time.monotonic() + chance.uniform(0.5, 7.0)
            while parent.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if parent.poll() is None and done < kills:
                victim = chance.choice([parent.pid, *workers_of(parent.pid)])
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    done += 1
        times |= {job: (job / "metrics.json").stat().st_mtime_ns for job in finished(folder) if job not in times}
        again = [job.name for job, at in times.items() if (job / "metrics.json").stat().st_mtime_ns != at]
        assert not again, f"{again} have run again"
        if parent.returncode == 0:
            return done


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="A sweep that is killed again and again.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    given = parser.parse_args()
    began, root = time.monotonic(), given.folder.absolute()
    root.mkdir(parents=True)
    words = ["-m", *WORDS, f"trainer.max_steps={given.steps}"]
    done = torment(root / "killed", [*words, f"hydra.sweep.dir={root}/killed"], given.kills, random.Random(given.seed))
    spent = time.monotonic() - began
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("train.py", *words, f"hydra.sweep.dir={root}/whole"), check=True, env=variables)
    for name in ("killed", "whole"):
        subprocess.run(command("tabulate.py", f"{root}/{name}"), check=True, capture_output=True, env=variables)
    pandas.testing.assert_frame_equal(table(root / "whole"), table(root / "killed"), check_exact=True)
    attempts = [json.loads((root / "killed" / str(job) / "status.json").read_text())["attempts"] for job in range(8)]
    for job in range(8):
        one, other = (root / name / str(job) for name in ("killed", "whole"))
        assert runs.equal(runs.weights(one), runs.weights(other)), job
        assert steps_of(one) == steps_of(other), job
    print(f"{done} kills in {spent:.0f} s, attempts {attempts}: tables, weights and steps are equal")


if __name__ == "__main__":
    main()
