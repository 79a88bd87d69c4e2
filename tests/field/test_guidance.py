"""Guidance on the command line: a trained run is sampled guided, and its training knows nothing of it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from flowport.field.guidance import Unguided
from flowport.field.guidance.reward_guidance import RewardGuidance
from flowport.reward import LinearReward
from flowport.run.build import build
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from tests import runs
from tests.run.test_resume import killed

TOLD = [
    "distribution@source=gaussian",
    "coupling=independent",
    "conditioning=target_label",
    "conditioning.dropout=0.2",
    "solver=heun",
]
PULL = ["guidance=reward", "reward=linear", "reward.c=[0,1]", "guidance.strength=2"]


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled_run") / "run"
    runs.run(folder, *TOLD)
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    measured = runs.measured(json.loads((folder / "metrics.json").read_text()))
    return {k: v for k, v in measured.items() if k.startswith("test/")}


def moved(labelled_run: Path, out: Path, capfd: Any, *words: str) -> np.ndarray:
    said = runs.here(capfd, "translate.py", f"run={labelled_run}", "label=1", *words, f"hydra.run.dir={out}")
    assert said.code == 0, said.err
    return np.load(out / "translated.npy")


def test_scale_one_measures_the_numbers_of_the_run_and_another_scale_does_not(
    labelled_run: Path, tmp_path: Path, capfd: Any
) -> None:
    for scale in (1, 4):
        said = runs.here(
            capfd,
            "evaluate.py",
            f"run={labelled_run}",
            "guidance=classifier_free",
            f"guidance.scale={scale}",
            f"hydra.run.dir={tmp_path}/{scale}",
        )
        assert said.code == 0, said.err
    assert numbers(tmp_path / "1") == numbers(labelled_run)
    assert numbers(tmp_path / "4")["test/w2"] != numbers(labelled_run)["test/w2"]


def test_translate_is_guided_by_classes_and_by_a_reward(labelled_run: Path, tmp_path: Path, capfd: Any) -> None:
    plain = moved(labelled_run, tmp_path / "none", capfd)
    one = moved(labelled_run, tmp_path / "one", capfd, "guidance=classifier_free", "guidance.scale=1")
    three = moved(labelled_run, tmp_path / "three", capfd, "guidance=classifier_free", "guidance.scale=3")
    late = moved(labelled_run, tmp_path / "late", capfd, "guidance=classifier_free", "guidance.interval=[0.95,1]")
    assert np.array_equal(plain, one)
    assert 0 < np.abs(late - plain).max() < np.abs(three - plain).max()


def test_a_reward_pulls_as_its_field_does(labelled_run: Path, tmp_path: Path, capfd: Any) -> None:
    pulled = moved(labelled_run, tmp_path, capfd, *PULL)
    run = restore(RunFolder(labelled_run))
    module, randomness = run.module, run.module.randomness.under("translate")
    run.sampler.guidance = partial(RewardGuidance, reward=LinearReward([0, 1]), strength=2.0, floor=0.05)
    points = module.source.split("test").every(64, randomness)
    translator = run.sampler.translator(module.ema)
    end = translator.forward(points, randomness.generator("noise"), torch.ones(64, dtype=torch.long)).end
    assert np.array_equal(pulled, end.numpy())


def test_training_and_its_resume_know_nothing_of_guidance(labelled_run: Path, tmp_path: Path) -> None:
    words = [*TOLD, "guidance=classifier_free", "guidance.scale=4", "trainer.val_check_interval=5"]
    killed(tmp_path, 12, *words)
    train(runs.prepared(tmp_path, *words), RunFolder(tmp_path), resume=True)
    assert runs.equal(runs.weights(tmp_path), runs.weights(labelled_run))
    assert numbers(tmp_path)["test/w2"] != numbers(labelled_run)["test/w2"]


def test_a_run_from_before_guidance_is_restored_as_it_was(labelled_run: Path) -> None:
    config = OmegaConf.load(labelled_run / ".hydra" / "config.yaml")
    del config["guidance"]
    assert isinstance(build(config).sampler.guidance, Unguided)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["guidance=classifier_free", "guidance.interval=[0.5]"], "guidance.interval=[0.5] must be two times"),
        (["guidance=classifier_free", "guidance.scale=much"], "guidance.scale=much is of the wrong kind"),
        (["guidance=reward"], "guidance=reward needs a reward: write reward=<name>"),
        (["guidance=reward", "reward=class_probability"], "labelled dataset"),
        (["solver=feynman_kac"], "solver=feynman_kac needs a reward: write reward=<name>"),
        (
            ["reward=linear", "reward.c=[0,1]"],
            "without guidance=reward or solver=feynman_kac: leave it out, or add one",
        ),
        (["solver=feynman_kac", "guidance=reward", "reward=linear", "reward.c=[0,1]"], "leave guidance=reward out"),
        (["guidance=everything"], "guidance=everything does not exist: choose classifier_free, reward, unguided"),
    ],
)
def test_slips(labelled_run: Path, tmp_path: Path, capfd: Any, words: list[str], sentence: str) -> None:
    assert (
        sentence in runs.here(capfd, "evaluate.py", f"run={labelled_run}", *words, f"hydra.run.dir={tmp_path}").sentence
    )


@pytest.mark.parametrize("solver", ["feynman_kac", "twisted"])
def test_particles_move_a_run_towards_its_reward(labelled_run: Path, tmp_path: Path, capfd: Any, solver: str) -> None:
    words = [
        f"solver={solver}",
        "solver.particles=4",
        "reward=linear",
        "reward.c=[0,1]",
        "points=64",
        "grid=uniform",
        "grid.steps=10",
    ]
    weak, strong = (
        moved(labelled_run, tmp_path / word, capfd, *words, f"solver.strength={word}")[:, 1] for word in ("0.001", "3")
    )
    assert strong.mean() > weak.mean() + weak.std() / 4
    words = [f"run={labelled_run}", *words[:4], "solver.strength=2", "nfe=40", f"hydra.run.dir={tmp_path}"]
    assert runs.here(capfd, "evaluate.py", *words).code == 0
    assert numbers(tmp_path)["test/nfe"] == 40, "ten steps of four particles"


def test_a_run_that_never_dropped_its_label_cannot_be_guided(trained: Path, tmp_path: Path, capfd: Any) -> None:
    words = [f"run={trained}", "guidance=classifier_free", f"hydra.run.dir={tmp_path}"]
    assert "conditioning.dropout" in runs.here(capfd, "evaluate.py", *words).sentence
    words = [f"run={trained}", *PULL, f"hydra.run.dir={tmp_path}"]
    assert "needs a score" in runs.here(capfd, "evaluate.py", *words).sentence
