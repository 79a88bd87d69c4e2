"""A search by Optuna, on real processes: it goes on to its total, and tells what died, repeats, or is refused."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from flowport.run.trials import Trials
from tests import runs
from tests.run.test_search_space import space
from tests.run.test_sweep_folder import FAST, WORDS, kill_one, saved, status, wait

OPTUNA = importlib.util.find_spec("optuna")
needs_optuna = pytest.mark.skipif(OPTUNA is None, reason="needs optuna")
SEARCH = ["-m", "hydra/sweeper=optuna"]


def trials(folder: Path) -> list[Any]:
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{folder}/optuna.journal"))
    return optuna.load_study(storage=storage, study_name="sweep").trials


def numbers(folder: Path, job: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / str(job) / "metrics.json").read_text())
    return found


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@needs_optuna
def test_a_search_repeats_no_run_goes_on_to_its_total_and_draws_its_front(tmp_path: Path, capfd: Any) -> None:
    sweep = tmp_path / "sweep"
    words = [*SEARCH, *FAST, "jobs=1", f"hydra.sweep.dir={sweep}", "solver=euler,heun", "grid.steps=2,4"]
    words += ["hydra.sweeper.sampler.n_startup_trials=1000", "optimise=[test/w2,test/nfe]"]  # all at random
    said = runs.here(capfd, "train.py", *words, "hydra.sweeper.n_trials=3")
    assert said.code == 0 and "3 runs for test/w2 (less is better), test/nfe (less is better) in" in said.err
    before, count = stamps(sweep), len(trials(sweep))
    assert len(list(sweep.glob("*/status.json"))) == 3
    said = runs.here(capfd, "train.py", *words, "hydra.sweeper.n_trials=3")
    assert said.code == 0 and "has its 3 runs: nothing is started" in said.err
    assert "of 3 runs none excels these in all of test/w2, test/nfe" in said.err
    assert {path for path, at in stamps(sweep).items() if before.get(path) != at} <= {sweep / "optuna.journal"}
    assert len(trials(sweep)) == count

    said = runs.here(capfd, "train.py", *words, "hydra.sweeper.n_trials=6")
    assert said.code == 0 and "3 of 6 runs for test/w2 (less is better), test/nfe (less is better) are left" in said.err
    assert "of 4 runs, with which all that is proposed has been tried, none excels these in all of" in said.err
    after = stamps(sweep)
    assert all(after[path] == at for path, at in before.items() if path.parent != sweep)  # no run is overwritten
    found = trials(sweep)
    assert [t.state.name for t in found] == ["COMPLETE"] * len(found) and len(found) >= 24
    folders = sorted(int(path.parent.name) for path in sweep.glob("*/status.json"))
    assert len(folders) == 4
    for trial in found:  # also of those that repeat another one
        own = [k for k in folders if f"solver={trial.params['solver']}" in status(sweep, k)["overrides"]]
        own = [k for k in own if f"grid.steps={trial.params['grid.steps']}" in status(sweep, k)["overrides"]]
        assert len(own) == 1
        assert trial.values == [numbers(sweep, own[0])["test/w2"], numbers(sweep, own[0])["test/nfe"]]
    said = runs.here(capfd, "train.py", *words, "hydra.sweeper.n_trials=6")
    assert said.code == 0 and "has its 4 runs: nothing is started" in said.err and len(trials(sweep)) == len(found)

    lines = (sweep / "pareto.csv").read_text().splitlines()
    assert lines[0].endswith("test/w2,test/nfe,front") and "job,grid.steps,solver" in lines[0]
    best = {t.values[0]: t.values[1] for t in trials(sweep)}
    least = min(best)
    assert any(f"{least}," in line and line.endswith("True") for line in lines[1:])
    assert (sweep / "pareto.png").read_bytes()[:4] == b"\x89PNG"

    said = runs.here(capfd, "train.py", *words[:-1], "optimise=test/w2")
    assert "holds a search of another space, or for other numbers" in said.sentence


@needs_optuna
def test_a_search_that_is_stopped_and_killed_goes_on_and_overwrites_nothing(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    words = [*SEARCH, *WORDS, "jobs=2", f"hydra.sweep.dir={sweep}", "hydra.sweeper.n_trials=3", "optimise=test/w2"]
    words += ["optimizer.lr=tag(log,interval(1e-4,1e-2))"]

    def started() -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", runs.HEARD, "train", *words], subprocess.PIPE
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=variables, text=True, stdout=pipe, stderr=pipe)

    process = started()
    wait(process, lambda: saved(sweep, 0) and saved(sweep, 1))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on by the same command" in said and "Traceback" not in said
    assert [t.state.name for t in trials(sweep)] == ["RUNNING"] * 2
    with (sweep / "optuna.journal").open("a") as journal:
        journal.write('{"op_code": 4, "cut')  # as by a process that was killed while it wrote

    process = started()
    victim, said = kill_one(sweep, process)
    assert process.returncode == 1 and "Traceback" not in said
    assert "going on in" in said and "3 of 3 runs for test/w2 (less is better) are left" in said
    assert "1 of 3 jobs did not finish" in said and "its process was ended by SIGKILL" in said
    assert "a trial that failed is not run again" in said and "the same command again runs" not in said
    assert "the best of 3 runs is trial" in said
    found = trials(sweep)
    assert [t.state.name for t in found] == ["FAIL" if k == victim else "COMPLETE" for k in range(3)]
    assert len({t.params["optimizer.lr"] for t in found}) == 3
    for trial in found:
        if trial.number != victim:
            assert trial.values == [numbers(sweep, trial.number)["test/w2"]]
    assert all(status(sweep, k).get("attempts") == 2 for k in (0, 1))  # went on under the same numbers


@needs_optuna
def test_what_cannot_be_searched_is_said_before_training(tmp_path: Path, capfd: Any) -> None:
    words = [*SEARCH, *FAST, "jobs=1", f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2"]
    assert "has nothing to optimise" in runs.here(capfd, "train.py", *words).sentence
    said = runs.here(capfd, "train.py", *words, "optimise=[test/w2,test/w2]")
    assert "names a number twice" in said.sentence
    said = runs.here(capfd, "train.py", *words, "optimise=[test/w2,test/w3]", "hydra.sweeper.n_trials=2")
    assert said.code == 2 and "optimise=test/w3 is not measured in this run: choose one of" in said.err
    assert [path.parent.name for path in (tmp_path / "sweep").glob("*/status.json")] == ["0"]
    assert not (tmp_path / "sweep" / "0" / "checkpoints").exists()


def test_without_optuna_a_sentence_names_it(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "optuna" else find(name))
    words = [*SEARCH, *FAST, f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2", "optimise=test/w2"]
    said = runs.here(capfd, "train.py", *words)
    assert "needs optuna, which is not installed: pip install 'flowport[search]'" in said.sentence


@needs_optuna
def test_a_search_looks_for_the_most_of_shares_and_the_least_of_distances(tmp_path: Path) -> None:
    names = ["test/w2", "test/partner_top1", "test/of_my_own"]
    directions = Trials(tmp_path, space("optimizer.lr=interval(0.1,1)"), names, OmegaConf.create({})).study.directions
    assert [way.name for way in directions] == ["MINIMIZE", "MAXIMIZE", "MINIMIZE"]
