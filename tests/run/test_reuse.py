"""Evaluate and translate: a new folder that says whose numbers it holds; the run's folder is only read."""

import json
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowport.evaluation.evaluator import reference_cost
from tests import runs


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def digest(trained: Path) -> str:
    return sha256((trained / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()[:16]


def test_evaluate_again_gives_the_numbers_of_training_and_reads_only(
    trained: Path, digest: str, tmp_path: Path, capfd: Any
) -> None:
    before = runs.fingerprint(trained)
    said = runs.here(capfd, "evaluate.py", f"run={trained}", f"hydra.run.dir={tmp_path}")
    assert said.code == 0, said.err
    numbers = metrics_of(tmp_path)
    assert numbers["base"] == str(trained)
    assert numbers["base/checkpoint"] == digest
    first = {k: v for k, v in runs.measured(metrics_of(trained)).items() if k.startswith("test/")}
    assert {k: numbers[k] for k in first} == first
    assert runs.fingerprint(trained) == before
    assert not (tmp_path / "checkpoints").exists()


def test_evaluate_with_wishes(trained: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(reference_cost, points=256, draws=2)  # 10 s of transport otherwise
    monkeypatch.setattr("flowport.evaluation.evaluator.reference_cost", few)
    said = runs.here(
        capfd,
        "evaluate.py",
        f"run={trained}",
        "solver=euler",
        "grid=uniform",
        "grid.steps=3",
        "metric=[energy_distance,normalised_path_energy]",
        "weights=raw",
        "seed=4",
        "evaluation_items=32",
        f"hydra.run.dir={tmp_path}",
    )
    assert said.code == 0, said.err
    names = {k.removeprefix("test/") for k in metrics_of(tmp_path) if k.startswith("test/")}
    assert "w2" not in names
    assert "npe" in names


def test_translate_forward_backward_and_cycle(trained: Path, digest: str, tmp_path: Path, capfd: Any) -> None:
    before = runs.fingerprint(trained)
    points = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    np.save(tmp_path / "mine.npy", points)
    moved = {}
    for direction in ("forward", "backward", "cycle"):
        out = tmp_path / direction
        said = runs.here(
            capfd,
            "translate.py",
            f"run={trained}",
            f"direction={direction}",
            "points=7",
            f"input={tmp_path}/mine.npy",
            f"hydra.run.dir={out}",
        )
        assert said.code == 0, said.err
        moved[direction] = np.load(out / "translated.npy")
        assert moved[direction].shape == (7, 2)
        numbers = metrics_of(out)
        assert (numbers["base"], numbers["base/checkpoint"], numbers["points"]) == (str(trained), digest, 7)
        with Image.open(out / "gallery.png") as picture:
            picture.load()
    assert np.abs(moved["cycle"] - points[:7]).max() < 5e-3 < np.abs(moved["forward"] - points[:7]).max()
    np.save(tmp_path / "mine.npy", moved["forward"])
    out = tmp_path / "back"
    runs.here(
        capfd,
        "translate.py",
        f"run={trained}",
        "direction=backward",
        f"input={tmp_path}/mine.npy",
        f"hydra.run.dir={out}",
    )
    assert np.abs(np.load(out / "translated.npy") - points[:7]).max() < 5e-3
    assert runs.fingerprint(trained) == before


def test_raw_weights_are_not_the_averaged_ones(trained: Path, tmp_path: Path, capfd: Any) -> None:
    for weights in ("ema", "raw"):
        runs.here(capfd, "translate.py", f"run={trained}", f"weights={weights}", f"hydra.run.dir={tmp_path}/{weights}")
    ema, raw = (np.load(tmp_path / w / "translated.npy") for w in ("ema", "raw"))
    assert ema.shape == raw.shape == (64, 2)
    assert not np.allclose(ema, raw)


def test_another_path_after_training_has_the_same_ends(trained: Path, tmp_path: Path, capfd: Any) -> None:
    ends = []
    for name in ("linear", "trigonometric"):
        words = [f"run={trained}", f"path={name}", f"hydra.run.dir={tmp_path}/{name}"]
        said = runs.here(capfd, "translate.py", *words)
        assert said.code == 0, said.err
        ends.append(np.load(tmp_path / name / "translated.npy"))
    assert np.abs(ends[0] - ends[1]).max() < 2e-2
    assert "γ = 0 on both" in runs.here(capfd, "translate.py", f"run={trained}", "path=smooth_bridge").sentence


def test_a_budget_of_evaluations_is_kept_by_every_solver(trained: Path, tmp_path: Path, capfd: Any) -> None:
    for solver in ("euler", "heun", "rk4"):
        words = [f"solver={solver}", "nfe=8", "metric=[transport_cost]", "evaluation_items=8"]
        said = runs.here(capfd, "evaluate.py", f"run={trained}", *words, f"hydra.run.dir={tmp_path}/{solver}")
        assert said.code == 0, said.err
        assert metrics_of(tmp_path / solver)["test/nfe"] == 8
