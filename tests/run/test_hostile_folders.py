"""A folder of somebody else's runs nothing, writes nowhere else, deletes nothing and ends no command in a hang."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import wavfile
from torch import Tensor

import flowport as fp
from flowport.distribution import AudioFolder, ImageFolder
from flowport.errors import FlowportError
from flowport.evaluation.tables import table
from flowport.run.run_folder import LARGEST_CONFIG, RunFolder
from flowport.run.trust import known_classes
from tests import runs


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "copy")))


def changed(folder: RunFolder, **nodes: Any) -> None:
    config = OmegaConf.load(folder.config)
    for key, value in nodes.items():
        OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, folder.config)


class Program(torch.nn.Module):
    """A reward that reads the abscissa."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def test_a_program_runs_only_where_this_user_trained_with_it(
    copy: RunFolder, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path / "home"))
    torch.jit.script(Program()).save(str(tmp_path / "program.pt"))
    reward = {"_target_": "flowport.reward.FromFileReward", "path": str(tmp_path / "program.pt")}
    changed(copy, reward=reward)
    words = (f"run={copy}", f"hydra.run.dir={tmp_path}/out")
    for command in ("evaluate.py", "translate.py"):
        assert "which you have not trained with" in runs.here(capfd, command, *words).sentence
    assert "which you have not trained with" in runs.here(capfd, "train.py", f"run={copy}").sentence
    changed(copy, reward={**reward, "path": "${place}"}, place=reward["path"])
    assert "which you have not trained with" in runs.here(capfd, "evaluate.py", *words).sentence
    with pytest.raises(FlowportError, match="which you have not trained with"):
        fp.load(copy.path)
    assert "not trained with" not in runs.here(capfd, "evaluate.py", *words, "trust=true").err
    own = ("reward=from_file", f"reward.path={tmp_path}/program.pt", "trust=true")
    assert "not trained with" not in runs.here(capfd, "evaluate.py", *words, *own).err
    assert copy.read_config().place == reward["path"], "his own words are remembered"


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torchmetrics.multimodal.CLIPScore", "model_name_or_path": "jinaai/here"},
        {"_target_": "torch.nn.Linear", "device": "cuda"},
        {"_target_": "torch.optim.Adam", "params": {"_target_": "torch.nn.Linear"}},
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/tmp"},
        {"_target_": "flowport.run.run_folder.RunFolder", "path": "/tmp"},
        {"_target_": "flowport.cost.FeaturesCost", "network": {"_target_": "torch.jit.load", "f": "x.pt"}},
    ],
    ids=lambda node: node["_target_"],
)
def test_only_the_classes_of_the_config_groups_are_built(copy: RunFolder, node: dict[str, Any]) -> None:
    changed(copy, extra=node)
    with pytest.raises(FlowportError, match=r"wants to build .*trust=true"):
        copy.read_config()


def test_a_trainer_of_a_stranger_sets_no_file_and_no_callback(copy: RunFolder) -> None:
    changed(copy, **{"trainer.default_root_dir": "/tmp"})
    with pytest.raises(FlowportError, match=r"trainer\.default_root_dir, which a restored run may not"):
        copy.read_config()


def test_every_known_class_is_one_of_the_package() -> None:
    assert {name.partition(".")[0] for name in known_classes()} == {"flowport", "lightning"}
    assert "flowport.network.MLP" in known_classes() and "flowport.run.stage.BoostingStage" in known_classes()


@pytest.mark.parametrize("name", ["checkpoints", "gallery.png", "tensorboard", ".hydra/config.yaml", "metrics.json"])
def test_nothing_is_written_through_a_link(copy: RunFolder, tmp_path: Path, capfd: Any, name: str) -> None:
    place, elsewhere = copy.path / name, tmp_path / "elsewhere"
    shutil.move(place, elsewhere) if place.exists() else elsewhere.mkdir()
    place.symlink_to(elsewhere)
    before = runs.fingerprint(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    assert "is a symbolic link" in runs.here(capfd, "train.py", f"run={copy}", "trainer.max_steps=30").sentence
    new = [*runs.TINY, f"hydra.run.dir={copy}"]
    if name != ".hydra/config.yaml":  # Hydra itself writes that one before the command begins
        sentence = runs.here(capfd, "train.py", *new).sentence
        assert "is a symbolic link" in sentence or "holds a run" in sentence
        assert (runs.fingerprint(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


def test_a_config_stands_for_no_more_than_its_own_size(copy: RunFolder) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))]
    copy.config.write_text("\n".join(lines))
    with pytest.raises(FlowportError, match="has YAML aliases"):
        copy.read_config()
    copy.config.write_text("a: 1\n" * LARGEST_CONFIG)
    with pytest.raises(FlowportError, match="a file of a run has at most"):
        copy.read_config()


def test_what_a_stranger_wrote_is_text_in_tables(tmp_path: Path, capfd: Any) -> None:
    evil = "\x1b]0;owned\x07=cmd|' /C calc'!A0<script>`rm`"
    for k, value in enumerate((evil, "plain")):
        (tmp_path / str(k) / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create([f"coupling={value}"]), tmp_path / str(k) / ".hydra" / "overrides.yaml")
        numbers = {"test/w2": -0.5 * k, f"test/[red]{evil}": 1.0}
        (tmp_path / str(k) / "metrics.json").write_text(json.dumps(numbers))
    said = runs.here(capfd, "tabulate.py", str(tmp_path))
    assert said.code == 0, said.err
    page, sheet = (tmp_path / "table.md").read_text(), (tmp_path / "table.csv").read_text()
    assert "\x1b" not in said.out + page + sheet
    assert "<script>" not in page and "`rm`" not in page and len({line.count(" | ") for line in page.splitlines()}) == 1
    assert "\n=" not in sheet and ",=" not in sheet and "-0.500" in sheet, "a number is no formula"
    assert "\x1b" not in table({evil: evil}) and "[red]" in table({"[red]": 1.0})


def test_a_picture_that_is_a_program_or_a_bomb_is_a_bad_file(tmp_path: Path) -> None:
    for name in "abcdefghij":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "k.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(FlowportError, match=r"k\.png cannot be read"):
        ImageFolder(str(tmp_path), size=8)
    Image.new("1", (20_000, 8_000)).save(tmp_path / "k.png")
    with pytest.raises(FlowportError, match=r"k.png cannot be read \(it has 20000 x 8000 pixels"):
        ImageFolder(str(tmp_path), size=8)


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_a_recording_of_an_impossible_rate_is_a_bad_file(tmp_path: Path, rate: int) -> None:
    for name in "abcdefghij":
        wavfile.write(tmp_path / f"{name}.wav", 8000, np.zeros(8192, np.int16))
    wavfile.write(tmp_path / "k.wav", rate, np.zeros(8192, np.int16))
    with pytest.raises(FlowportError, match="its sample rate is"):
        AudioFolder(str(tmp_path))
