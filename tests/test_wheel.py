"""The wheel, installed outside the checkout: the command, its configs, and a run from another directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(ROOT)], check=True, cwd=folder)
    return folder


def flowport(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    place = {"PYTHONPATH": str(installed / "site"), "FLOWPORT_HOME": str(installed / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "flowport.run", *words],
        cwd=installed,
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_names_the_commands_and_needs_no_torch(installed: Path) -> None:
    said = flowport(installed, "--help")
    assert said.returncode == 0
    assert all(name in said.stdout for name in ("train", "finetune", "translate", "evaluate", "arena"))
    wrong = flowport(installed, "trian")
    assert wrong.returncode == 2
    assert "flowport: trian is no command: choose train" in wrong.stderr


def test_a_run_is_trained_and_translated_from_any_directory(installed: Path) -> None:
    words = [
        "experiment=eight_gaussians_to_moons",
        "trainer.max_steps=20",
        "evaluation_items=64",
        "metric=[wasserstein]",
    ]
    trained = flowport(installed, "train", *words, "hydra.run.dir=mine", "+trainer.enable_progress_bar=false")
    assert trained.returncode == 0, trained.stderr
    built = json.loads((installed / "mine" / "built_by.json").read_text())
    assert built["flowport"] == "0.2.0"
    moved = flowport(installed, "translate", "run=mine", "hydra.run.dir=there")
    assert moved.returncode == 0, moved.stderr
    assert (installed / "there" / "translated.npy").is_file()
