"""A folder of somebody else's runs nothing, writes nowhere else, deletes nothing and ends no command in a hang."""

import json
import os
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
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert "<script>" not in page and "`rm`" not in page and len({line.count(" | ") for line in rows}) == 1
    assert "\n=" not in sheet and ",=" not in sheet and ",-0.5," in sheet, "a number is no formula"
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


def test_a_config_has_no_positional_arguments_and_few_references(copy: RunFolder, tmp_path: Path) -> None:
    torch.jit.script(Program()).save(str(tmp_path / "program.pt"))
    reward = {"_target_": "flowport.reward.FromFileReward", "_args_": [str(tmp_path / "program.pt")]}
    changed(copy, reward=reward)
    with pytest.raises(FlowportError, match="has _args_ at reward"):
        copy.read_config()
    changed(copy, reward=None, **{f"x{k}": f"${{x{k - 1}}}${{x{k - 1}}}" if k else "y" for k in range(30)})
    with pytest.raises(FlowportError, match="references"):
        copy.read_config()


@pytest.mark.parametrize("two", ["${x}${x}", "${node}"])
def test_a_reference_names_one_plain_value(copy: RunFolder, two: str) -> None:
    changed(copy, x="abc", node={"a": 1}, y=two)
    with pytest.raises(FlowportError, match="than a reference to one plain value"):
        copy.read_config()


def test_what_was_checked_is_what_is_built(copy: RunFolder, tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    """A path that depends on a key which a command changes does not change with it."""
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path / "home"))
    torch.jit.script(Program()).save(str(tmp_path / "33.pt"))
    reward = {"_target_": "flowport.reward.FromFileReward", "path": f"{tmp_path}/${{evaluation_items}}.pt"}
    changed(copy, reward=reward, guidance={"_target_": "flowport.field.guidance.RewardGuidance", "_partial_": True})
    said = runs.here(capfd, "evaluate.py", f"run={copy}", "evaluation_items=33", f"hydra.run.dir={tmp_path}/out")
    assert said.code == 2 and "33.pt" not in said.err


@pytest.mark.parametrize("name", [".hydra/config.yaml", "built_by.json", ".lock", "metrics.json"])
def test_a_pipe_in_the_folder_blocks_nothing(copy: RunFolder, tmp_path: Path, capfd: Any, name: str) -> None:
    (copy.path / name).unlink(missing_ok=True)
    os.mkfifo(copy.path / name)
    said = runs.here(capfd, "train.py", f"run={copy}")
    assert said.code == 2 and "Traceback" not in said.err
    assert any(text in said.sentence for text in ("regular file", "neither a file nor a folder", "no .hydra"))


@pytest.mark.parametrize("name", ["gallery.png", "translation.png"])
def test_a_hard_link_in_the_folder_changes_no_other_file(
    copy: RunFolder, tmp_path: Path, capfd: Any, name: str
) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (copy.path / name).unlink(missing_ok=True)
    os.link(other, copy.path / name)
    assert runs.here(capfd, "train.py", f"run={copy}").code == 0
    assert other.read_text() == "mine"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 3000, "{" * 40 + "}" * 40, "\x00\x01", "- a\n\t- b"])
def test_a_deep_or_broken_config_is_refused_at_once(copy: RunFolder, text: str) -> None:
    copy.config.write_text(text)
    with pytest.raises(FlowportError, match=r"config\.yaml"):
        copy.read_config()
    copy.stamp.write_text(text)
    with pytest.raises(FlowportError, match=r"built_by\.json"):
        copy.read_config()


def test_a_checkpoint_of_shared_dicts_is_refused_at_once(copy: RunFolder, capfd: Any) -> None:
    deep: Any = {}
    for _ in range(64):
        deep = {"a": deep, "b": deep}
    checkpoint = torch.load(copy.checkpoint, weights_only=True)
    for key in ("loops", "optimizer_states", "lr_schedulers"):
        held = [deep] if key != "loops" else deep
        torch.save({**checkpoint, key: held}, copy.checkpoint)
        said = runs.here(capfd, "train.py", f"run={copy}", "trainer.max_steps=30")
        assert said.code == 2 and "Traceback" not in said.err, said.err[-2000:]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.to_sparse(),
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        lambda w: w.to("meta"),
        lambda w: torch.zeros(3),
    ],
    ids=["sparse", "quantised", "meta", "shape"],
)
def test_odd_weights_are_refused_by_name(copy: RunFolder, capfd: Any, tmp_path: Path, change: Any) -> None:
    checkpoint = torch.load(copy.checkpoint, weights_only=True)
    name = next(key for key, value in checkpoint["state_dict"].items() if value.ndim == 2)
    checkpoint["state_dict"][name] = change(checkpoint["state_dict"][name])
    torch.save(checkpoint, copy.checkpoint)
    said = runs.here(capfd, "evaluate.py", f"run={copy}", f"hydra.run.dir={tmp_path}/out")
    assert said.code == 2 and "does not fit this run" in said.sentence


def test_a_sweep_with_damaged_jobs_has_a_table_of_the_others(tmp_path: Path, capfd: Any) -> None:
    good = {"test/w2": 0.5}
    damaged = [
        "{",
        "[1]",
        '"a"',
        "null",
        "[" * 50_000,
        json.dumps({"test/w2": "word"}),
        json.dumps({"test/w2": 10**400}),
    ]
    for k, text in enumerate([json.dumps(good), *damaged]):
        job = tmp_path / str(k)
        (job / ".hydra").mkdir(parents=True)
        (job / "metrics.json").write_text(text)
        (job / ".hydra" / "overrides.yaml").write_text(f"- seed={k}\n- ~reward\n- coupling=exact\n")
    (tmp_path / "1" / ".hydra" / "overrides.yaml").unlink()
    said = runs.here(capfd, "tabulate.py", str(tmp_path))
    assert said.code == 0 and "| exact |" in said.out
    assert said.err.count("left out of the table") == 5


def test_the_arena_draws_problems_of_its_own_alone(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- problem=../../evil\n")
    keys = ("kl", "reward", "kl_to_tilt", "frontier_reward", "base_reward")
    (tmp_path / "0" / "metrics.json").write_text(json.dumps({f"arena/{key}": 1.0 for key in keys}))
    said = runs.here(capfd, "arena.py", f"draw={tmp_path}", f"hydra.run.dir={tmp_path}/out")
    assert said.code == 2 and "names the problem ../../evil: choose" in said.sentence
