"""Every experiment trains for two steps, is measured, and leaves a whole run folder."""

import json
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from flowport.evaluation.evaluator import reference_cost
from flowport.run.finetune import tune, tuned_config
from flowport.run.reflow import reflow
from flowport.run.run_folder import RunFolder
from tests.distribution.folders import pictures, recordings, shapes

ROOT = Path(__file__).parents[1]
ALL = sorted(p.stem for p in (ROOT / "configs" / "experiment").glob("*.yaml"))
NAMES = [name for name in ALL if not name.startswith("finetune_") and not name.endswith("_reflow")]

OWN = {
    "images": (pictures, ["size=8"]),
    "images_bridge": (pictures, ["size=8"]),
    "images_latent": (pictures, ["size=32"]),
    "spectrograms": (recordings, []),
    "speech": (recordings, []),
    "point_clouds": (shapes, ["points=32"]),
}
PITCHES = "[20,30,40,50,60,70,80,90]"


def small_data(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words by which an experiment has little data, some of them made in a folder, and trains on one thread."""
    monkeypatch.setattr("flowport.distribution.folder.CACHE", folder / "cache")
    words = [f"experiment={name}", "threads=1"]
    if name.startswith("timbre"):
        words += ["source.train=64", "target.train=64"]
    if name.endswith("_latent"):  # tests/test_space.py trains an autoencoder
        monkeypatch.setattr("flowport.data.space.AUTOENCODERS", folder / "autoencoders")
        words += ["space.steps=2"]
    if name == "voices":
        pytest.importorskip("espeakng_loader")
        words += [
            f"{side}.{word}" for side in ("source", "target") for word in ("rates=[100,180]", f"pitches={PITCHES}")
        ]
    if name in OWN:
        make, smaller = OWN[name]
        for side in ("source", "target"):
            words += [f"{side}.path={make(folder / side)}", *(f"{side}.{word}" for word in smaller)]
    return words


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_every_experiment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        *small_data(name, tmp_path, monkeypatch),
        "trainer.max_steps=2",
        "evaluation_items=24",
        "grid.steps=4",
        "data.validation_items=32",
    ]
    few = partial(reference_cost, points=256, draws=2)  # 10 s of transport otherwise
    monkeypatch.setattr("flowport.evaluation.evaluator.reference_cost", few)
    if name.startswith("timbre") or name == "voices":  # a minute and a half for the judge: its own tests train judges
        words += ["metric=[spectral_distance]"]
    if name.endswith("_latent"):
        words += ["metric=[sliced_wasserstein]"]
    if name == "known_processes":
        words += ["stage.paths=200", "stage.steps=20"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", words)
    with open_dict(config):
        config.trainer.enable_progress_bar = False
    OmegaConf.save(config, tmp_path / "config.yaml")
    numbers = instantiate(config.stage).run(config, RunFolder(tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text()) == numbers
    tested = {k: v for k, v in numbers.items() if k.startswith("test/")}
    assert tested
    assert all(v == v for v in tested.values()), "a metric is NaN"
    if name == "known_processes":
        assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
    elif name != "classifier":
        assert (tmp_path / "checkpoints" / "last.ckpt").stat().st_size > 0
        assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
        assert numbers["train/steps"] == 2


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("finetune_")])
def test_two_steps_of_every_tuning(name: str, tmp_path: Path) -> None:
    """Its base is trained for one step, whatever it has learnt."""
    (tmp_path / "base").mkdir(), (tmp_path / "tuned").mkdir()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = compose(
            "finetune",
            [
                f"experiment={name}",
                "trainer.max_steps=2",
                "starts=2",
                "threads=1",
                f"adjoint_snr={name == 'finetune_mixture'}",
                "certified=4",
                "evaluation_items=4",
            ],
        )
        words = [
            f"experiment={overrides.base}",
            "trainer.max_steps=1",
            "evaluation_items=4",
            "threads=1",
            "grid.steps=2",
            "metric=[sliced_wasserstein]",
            "data.validation_items=2",
            "data.batch=2",
            "data.pool=1",
        ]
        small = ["source.train=16", "target.train=16"] if "timbre" in name else []
        config = compose("train", words + small)
    for part in (config, overrides):
        with open_dict(part):
            part.trainer.enable_progress_bar = False
    OmegaConf.save(config, tmp_path / "config.yaml")
    instantiate(config.stage).run(config, RunFolder(tmp_path / "base"))
    if "AutoMethod" in overrides.method._target_:
        overrides.method.paths, overrides.method.branches = 32, 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowport.finetuning.probe.STEPS", 4)
        patch.setattr("flowport.run.finetune.SNR_STATES", 2)
        patch.setattr("flowport.run.finetune.SNR_PATHS", 2)
        patch.setattr("flowport.finetuning.certificate.STEPS", 4)
        config = tuned_config(RunFolder(tmp_path / "base"), overrides)
        method = config.tuning[-1].method
        method.update({key: 2 for key in ("batch", "paths") if key in method})
        method.get("discretisation", method).grid.steps = 12
        numbers = tune(config, RunFolder(tmp_path / "tuned"))
    assert numbers["train/steps"] == 2 and (tmp_path / "tuned" / "before_after.png").stat().st_size > 0
    assert all(v == v for k, v in numbers.items() if k.startswith(("certificate/", "sampled/")))
    won = numbers["sampled/reward"] - numbers["sampled/base_reward"]
    assert numbers["sampled/gain"] == pytest.approx(won, rel=1e-6, abs=1e-9 * abs(numbers["sampled/reward"]))


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith("_reflow")])
def test_two_steps_of_every_reflow(name: str, tmp_path: Path) -> None:
    """Its base is trained for one step, whatever it has learnt."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = compose("reflow", [f"experiment={name}", "steps=2", "pairs=32", "threads=1", "evaluation_items=16"])
        config = compose(
            "train",
            [
                f"experiment={overrides.base}",
                "trainer.max_steps=1",
                "evaluation_items=16",
                "threads=1",
                "grid.steps=2",
                "metric=[transport_cost]",
                "data.validation_items=2",
                "data.batch=2",
                "data.pool=1",
            ],
        )
    with open_dict(config):
        config.trainer.enable_progress_bar = False
    (tmp_path / "base").mkdir()
    OmegaConf.save(config, tmp_path / "config.yaml")
    instantiate(config.stage).run(config, RunFolder(tmp_path / "base"))
    numbers = reflow(RunFolder(tmp_path / "base"), overrides, RunFolder(tmp_path / "run"))
    assert numbers["train/steps"] == 2 and numbers["test/straightness"] >= 0
    assert (tmp_path / "run" / "gallery.png").stat().st_size > 0
