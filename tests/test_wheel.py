"""The wheel in a new environment outside the checkout: the command, its configs, and the notebook of the README."""

import json
import os
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

NOTEBOOK = """
import torch
import flowport as fp

x0, x1 = torch.randn(400, 2) * 0.3 - 2, torch.randn(400, 2) * 0.5 + 1
flow = fp.fit(x0, x1, steps=200)
y = flow.translate(x0)
assert (y.mean(0) - x1.mean(0)).abs().max() < 0.5
assert flow.translate(x0, solver="heun", steps=20, trajectory=True).shape == (21, 400, 2)
x, t = x1, 0.5
assert flow.velocity(x, t).shape == (400, 2)
flow.save("folder")
flow = fp.load("folder")
assert torch.equal(flow.translate(x0), y)
noise = fp.fit(fp.Gaussian(2), x1, steps=200)
assert noise.sample(1000, volatility="memoryless").shape == (1000, 2)
assert noise.score(x, t).shape == (400, 2) and noise.log_prob(x).shape == (400,)
tuned = fp.finetune(noise, reward=lambda x: x[:, 0], strength=2.0, steps=20)
assert tuned.sample(1000)[:, 0].mean() > noise.sample(1000)[:, 0].mean()
end = fp.solve(lambda x, t: -x, x0, solver="dopri5")
assert torch.allclose(end, x0 * torch.tensor(-1.0).exp(), atol=1e-3)
found = fp.couple(x0, x1, coupling="exact")
assert found.cost < (x0 - x1).square().sum(1).mean()
assert {"fit", "Gaussian", "LinearPath"} <= set(dir(fp))
assert "site-packages" in fp.__file__
"""
"""The lines of docs/guides/python.md, with what must be true of them."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new environment that holds the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    place = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(place)], check=True)
    site = next((place / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", "--ignore-installed", str(ROOT)], check=True, cwd=folder
    )
    return folder


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {"FLOWPORT_HOME": str(installed / "home"), "OMP_NUM_THREADS": "1"}
    command = [str(installed / "env" / "bin" / words[0]), *words[1:]]
    return subprocess.run(
        command, cwd=installed, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300
    )


def test_help_names_the_commands_and_needs_no_torch(installed: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = run(installed, "flowport", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert said.returncode == 0, said.stderr
    assert all(name in said.stdout for name in ("train", "finetune", "translate", "evaluate", "arena"))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5, "CPU seconds"
    wrong = run(installed, "flowport", "trian")
    assert wrong.returncode == 2
    assert "flowport: trian is no command: choose train" in wrong.stderr


def test_a_run_is_trained_and_translated_from_any_directory(installed: Path) -> None:
    words = ["experiment=eight_gaussians_to_moons", "trainer.max_steps=200", "evaluation_items=64"]
    trained = run(installed, "flowport", "train", *words, "hydra.run.dir=mine", "+trainer.enable_progress_bar=false")
    assert trained.returncode == 0, trained.stderr
    built = json.loads((installed / "mine" / "built_by.json").read_text())
    assert built["flowport"] == "0.2.0" and built["git"] is None
    moved = run(installed, "flowport", "translate", "run=mine", "hydra.run.dir=there")
    assert moved.returncode == 0, moved.stderr
    assert (installed / "there" / "translated.npy").is_file()


def test_the_notebook_runs(installed: Path) -> None:
    (installed / "notebook.py").write_text(NOTEBOOK)
    said = run(installed, "python", "notebook.py")
    assert said.returncode == 0, said.stderr
    assert "coupling=exact" in said.stderr and "coupling=independent" in said.stderr
