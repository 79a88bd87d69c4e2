"""A user's own two folders: files, twenty steps of training, and the same kind of files of the same names."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from flowport.errors import FlowportError
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from flowport.run.translate import translate
from tests.runs import QUIET, ROOT, fingerprint

SHORT = ["trainer.max_steps=20", "data.batch=8", "data.validation_items=8", "evaluation_items=8", "threads=1"]
SMALL = [*SHORT, "network.width=8", "grid.steps=2", "solver=euler", "data.pool=1", "metric=[transport_cost]", QUIET]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowport.distribution.folder.CACHE", tmp_path_factory.mktemp("cache"))
        yield


def configured(name: str, *words: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(name, list(words))


def trained(folder: Path, *words: str) -> Path:
    """A run of two folders of files, whose training data are then moved away."""
    config = configured("train", *SMALL, *words)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    train(config, RunFolder(folder))
    for side in ("source", "target"):
        shutil.move(config[side].path, config[side].path + " gone")
    return folder


def translated(run: Path, out: Path, *words: str) -> dict[str, Any]:
    return translate(RunFolder(run), configured("translate", "run=x", *words), RunFolder(out))


def flags(folder: Path, n: int = 15, mode: str = "RGBA", seed: int = 0) -> Path:
    """Two class folders of pictures with transparent corners."""
    random = np.random.default_rng(seed)
    for kind, colour in (("flags", (220, 30, 30)), ("food", (30, 160, 40))):
        (folder / kind).mkdir(parents=True)
        for k in range(n):
            pixels = np.zeros((20, 20, 4), np.uint8)
            x, y = random.integers(0, 10, 2)
            pixels[x : x + 10, y : y + 10] = (*colour, 255)
            Image.fromarray(pixels).convert(mode).save(folder / kind / f"{k:02}.png")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("pictures")
    words = [f"source.path={flags(home / 'a')}", f"target.path={flags(home / 'b', seed=1)}"]
    sizes = [f"{side}.size=[8,16]" for side in ("source", "target")]
    return trained(home / "run", "experiment=images", *words, *sizes)


def test_pictures_become_pictures_of_the_same_names(pictures, tmp_path):
    inside = flags(tmp_path / "in", n=2, seed=2)
    (inside / "flags" / ".hidden.png").write_bytes(b"x")
    (inside / "notes.txt").write_text("x")
    Image.new("RGB", (30, 30), "red").save(inside / "x.jpg")
    Image.new("L", (30, 30), 7).save(inside / "x.gif")
    (inside / "broken.png").write_text("no picture")
    before = fingerprint(inside)
    numbers = translated(pictures, tmp_path / "res", f"input={inside}", f"output={tmp_path / 'out'}")
    wanted = ["flags/00.png", "flags/01.png", "food/00.png", "food/01.png", "x.jpg", "x.png"]
    assert names(tmp_path / "out") == wanted and fingerprint(inside) == before
    assert numbers["files"] == 6 and numbers["unreadable"] == 1 and numbers["files_per_second"] > 0
    assert (tmp_path / "res" / "unreadable.txt").read_text().startswith("broken.png\t")
    with (
        Image.open(tmp_path / "out" / "flags" / "00.png") as made,
        Image.open(tmp_path / "res" / "gallery.png") as sheet,
    ):
        assert (made.size, made.mode) == ((16, 8), "RGB") and sheet.width > 100
    assert json.loads((tmp_path / "res" / "metrics.json").read_text())["base"] == str(pictures)


def test_equal_stems_do_not_collide(pictures, tmp_path):
    (tmp_path / "in").mkdir()
    long = "x" * 250 + ".png"
    for name in ("a.png", "a.gif", "a.jpg", "b.gif", "a.gif.png", long):
        Image.new("RGB", (9, 9), "blue").save(tmp_path / "in" / name)
    numbers = translated(pictures, tmp_path / "res", f"input={tmp_path / 'in'}")
    wanted = ["a.gif.png", "a.gif.png.png", "a.jpg", "a.png", "b.png", long]
    assert names(tmp_path / "res" / "files") == wanted and numbers["files"] == 6
    (tmp_path / "in" / "x.heic").write_bytes(b"x")
    with pytest.raises(FlowportError, match=r"x\.heic is not read: save them as jpg first"):
        translated(pictures, tmp_path / "res", f"input={tmp_path / 'in' / 'x.heic'}")
    with pytest.raises(FlowportError, match=r"out\.png has the name of a file: give a folder"):
        translated(pictures, tmp_path / "res", f"input={tmp_path / 'in' / 'a.png'}", f"output={tmp_path / 'out.png'}")


def test_what_would_lose_files_is_refused(pictures, tmp_path):
    inside = flags(tmp_path / "in", n=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    one = inside / "flags" / "00.png"
    for given, output, told in (
        (inside, tmp_path / "full", "is not empty: give another folder, or add overwrite=true"),
        (inside, inside / "out", "lies in the input"),
        (inside, one, "is a file"),
        (one, one.parent, "is not empty"),
        (tmp_path / "nowhere", tmp_path / "out", "does not exist"),
        (tmp_path / "full", tmp_path / "out", r"holds no \.png"),
    ):
        with pytest.raises(FlowportError, match=told):
            translated(pictures, tmp_path / "res", f"input={given}", f"output={output}")
    with pytest.raises(FlowportError, match="would replace files that are read"):
        translated(pictures, tmp_path / "res", f"input={one}", f"output={one.parent}", "overwrite=true")
    with pytest.raises(FlowportError, match="samples=2 would write equal files"):
        translated(pictures, tmp_path / "res", f"input={one}", "samples=2")
    translated(pictures, tmp_path / "res", f"input={inside}", f"output={tmp_path / 'full'}", "overwrite=true")
    assert names(tmp_path / "full") == ["flags/00.png", "food/00.png", "mine.txt"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"


def test_without_its_data_a_run_says_what_to_give(pictures, tmp_path):
    with pytest.raises(FlowportError, match="is not a folder"):
        translated(pictures, tmp_path / "res")
    run = restore(RunFolder(pictures), data=False)
    assert run.module.target.class_names == ("flags", "food") and run.module.source.classes == 2
    with pytest.raises(FlowportError, match="give input=<files>"):
        run.module.source.every(3, run.module.randomness)


@pytest.mark.parametrize("values", ["bytes", "floats", "grey scale", "hundreds"])
def test_arrays_are_checked_against_the_range_that_was_learnt(values, pictures, tmp_path, caplog):
    raw = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 16)).astype(np.uint8)
    given = {"bytes": raw, "floats": raw / 127.5 - 1, "grey scale": raw / 255, "hundreds": raw.astype(float)}[values]
    np.save(tmp_path / "x.npy", given)
    words = (pictures, tmp_path / "res", f"input={tmp_path / 'x.npy'}")
    if values == "hundreds":
        with pytest.raises(FlowportError, match=r"values from 0 to 255, but this run has learnt -0\.765 to 1"):
            translated(*words)
        return
    with caplog.at_level(logging.WARNING):
        assert translated(*words)["points"] == 5
    assert ("are they on the same scale" in caplog.text) == (values == "grey scale")
    assert np.load(tmp_path / "res" / "translated.npy").shape == (5, 3, 8, 16)
    assert len(names(tmp_path / "res" / "files")) == 5


def test_kept_transparency_comes_out(tmp_path):
    words = [f"source.path={flags(tmp_path / 'a')}", f"target.path={flags(tmp_path / 'b', seed=1)}"]
    options = [f"{side}.{word}" for side in ("source", "target") for word in ("size=8", "background=alpha")]
    run = trained(tmp_path / "run", "experiment=images", *words, *options)
    translated(run, tmp_path / "res", f"input={tmp_path / 'a gone'}", f"output={tmp_path / 'out'}", "points=3")
    with Image.open(tmp_path / "out" / "flags" / "00.png") as made:
        assert made.mode == "RGBA" and made.getchannel("A").getextrema()[0] < 128
    assert len(names(tmp_path / "out")) == 3


def test_a_flow_with_a_law_gives_several_samples_of_one_label(tmp_path):
    words = [f"source.path={flags(tmp_path / 'a')}", f"target.path={flags(tmp_path / 'b', seed=1)}"]
    options = [f"{side}.size=8" for side in ("source", "target")]
    bridge = ["path=brownian_bridge", "prediction=target", "conditioning=source", "solver=ancestral", "volatility=zero"]
    run = trained(tmp_path / "run", "experiment=images", *words, *options, *bridge)
    one = tmp_path / "a gone" / "flags" / "00.png"
    translated(run, tmp_path / "res", f"input={one}", "samples=3", "solver=ancestral")
    made = names(tmp_path / "res" / "files")
    assert made == ["00_1.png", "00_2.png", "00_3.png"]
    assert len({(tmp_path / "res" / "files" / name).read_bytes() for name in made}) == 3


def test_a_label_may_be_named(tmp_path):
    words = [f"source.path={flags(tmp_path / 'a')}", f"target.path={flags(tmp_path / 'b', seed=1)}"]
    options = [f"{side}.size=8" for side in ("source", "target")]
    label = ["conditioning=target_label", "coupling=independent", "distribution@source=gaussian"]
    run = trained_from_noise(tmp_path / "run", "experiment=images", words[1], *options[1:], *label)
    for word in ("food", "1"):
        translated(run, tmp_path / word, "points=2", f"label={word}")
    images = [np.load(tmp_path / word / "translated.npy") for word in ("food", "1")]
    assert np.array_equal(*images)
    with pytest.raises(FlowportError, match="write label=<one of flags, food>"):
        translated(run, tmp_path / "res", "points=2")
    with pytest.raises(FlowportError, match=r"label=cats is not a label.*it has flags, food"):
        translated(run, tmp_path / "res", "points=2", "label=cats")


def trained_from_noise(folder: Path, *words: str) -> Path:
    config = configured("train", *SMALL, *words, "source.event_shape=[3,8,8]")
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    train(config, RunFolder(folder))
    return folder


def tones(folder: Path, rate: int, hertz: int) -> Path:
    folder.mkdir(parents=True)
    for k in range(12):
        at = np.arange(int(rate * (0.3 + 0.2 * k))) / rate
        soundfile.write(folder / f"{k:02}.wav", 0.5 * np.sin(2 * np.pi * (hertz + 10 * k) * at), rate)
    return folder


@pytest.mark.parametrize("modality", ["log_mel", "complex_stft"])
def test_recordings_of_any_length_become_recordings_of_that_length(modality, tmp_path, caplog):
    words = [f"source.path={tones(tmp_path / 'a', 16000, 220)}", f"target.path={tones(tmp_path / 'b', 8000, 300)}"]
    chosen = [f"modality@{side}.modality={modality}" for side in ("source", "target")]
    small = [f"{side}.{word}" for side in ("source", "target") for word in ("modality.window=256", "samples=2048")]
    bands = ["source.modality.bands=16", "target.modality.bands=16"] if modality == "log_mel" else []
    with caplog.at_level(logging.WARNING):
        run = trained(tmp_path / "run", "experiment=spectrograms", *words, *chosen, *small, *bands)
    assert "sides without a given rate are resampled to 8000 Hz" in caplog.text
    inside = tmp_path / "in"
    inside.mkdir()
    at = np.arange(int(21.7 * 22050)) / 22050
    soundfile.write(inside / "long.flac", 0.9 * np.sin(2 * np.pi * 220 * at), 22050)
    soundfile.write(inside / "short.wav", 0.1 * np.ones((700, 2)), 8000)
    for side in ("a", "b"):
        shutil.copytree(f"{tmp_path / side} gone", tmp_path / side)
    own = translated(run, tmp_path / "own", "part=train", "points=9")
    assert own["files"] == 9 and set(names(tmp_path / "own" / "files")) < set(names(tmp_path / "a"))
    for name in names(tmp_path / "own" / "files"):
        lengths = [soundfile.info(folder / name).duration for folder in (tmp_path / "a", tmp_path / "own" / "files")]
        assert lengths[0] == pytest.approx(lengths[1], abs=1e-3), "whole recordings"
    numbers = translated(run, tmp_path / "res", f"input={inside}", f"output={tmp_path / 'out'}")
    assert names(tmp_path / "out") == ["long.flac", "short.wav"] and numbers["points"] > 80
    long, rate = soundfile.read(tmp_path / "out" / "long.flac")
    assert rate == 8000 and len(long) == round(21.7 * 8000) and np.abs(long).max() <= 0.98
    assert soundfile.info(tmp_path / "out" / "short.wav").frames == 700


def clouds(folder: Path, stretch: float) -> Path:
    folder.mkdir(parents=True)
    for k in range(15):
        np.save(folder / f"{k:02}.npy", np.random.default_rng(k).normal(size=(60, 3)) * (1, 1, stretch) + (50, 0, 0))
    return folder


def test_shapes_become_clouds_in_the_place_of_the_shape(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    words = [f"source.path={clouds(tmp_path / 'a', 1)}", f"target.path={clouds(tmp_path / 'b', 3)}"]
    sizes = [f"{side}.{word}" for side in ("source", "target") for word in ("points=16", "stored=32")]
    run = trained(tmp_path / "run", "experiment=point_clouds", *words, *sizes)
    inside = clouds(tmp_path / "in", 1)
    trimesh.creation.box((2, 2, 2)).apply_translation((0, 0, 100)).export(inside / "box.stl")
    translated(run, tmp_path / "res", f"input={inside}", f"output={tmp_path / 'out'}")
    assert names(tmp_path / "out") == sorted([f"{k:02}.npy" for k in range(15)] + ["box.ply"])
    made = np.load(tmp_path / "out" / "00.npy")
    assert made.shape == (16, 3) and abs(made[:, 0].mean() - 50) < 3
    box = np.asarray(trimesh.load(tmp_path / "out" / "box.ply").vertices)
    assert abs(box[:, 2].mean() - 100) < 3 and np.abs(box - box.mean(0)).max() < 10


def test_latents_are_translated_without_the_data(tmp_path):
    words = [f"source.path={flags(tmp_path / 'a')}", f"target.path={flags(tmp_path / 'b', seed=1)}"]
    options = [f"{side}.size=8" for side in ("source", "target")]
    latent = ["space=latent", "space.steps=2", "space.width=8", "network.patch=1"]
    os.environ["FLOWPORT_HOME"], home = str(tmp_path / "home"), os.environ.get("FLOWPORT_HOME")
    try:
        run = trained(tmp_path / "run", "experiment=images", *words, *options, *latent)
    finally:
        os.environ.pop("FLOWPORT_HOME")
        os.environ.update({} if home is None else {"FLOWPORT_HOME": home})
    translated(run, tmp_path / "res", f"input={tmp_path / 'a gone'}", "points=2")
    assert names(tmp_path / "res" / "files") == ["flags/00.png", "flags/01.png"]
    codec = restore(RunFolder(run), data=False).module.codec
    for side in ("a", "b"):
        shutil.move(f"{tmp_path / side} gone", tmp_path / side)
    whole = restore(RunFolder(run)).module.state_dict()
    assert all(torch.equal(v, whole[name]) for name, v in codec.state_dict(prefix="codec.").items())
