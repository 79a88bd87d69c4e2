"""W&B offline and MLflow on disk hold the same numbers, pictures, sounds and clouds as TensorBoard."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flowport.run import stage
from flowport.run.run_folder import RunFolder
from flowport.run.trust import remember_programs
from flowport.training.logger import MlflowLogger, RunLogger, WandbLogger
from tests import runs

FAST = ("metric=[straightness]", "evaluation_items=4", "solver=euler", "grid.steps=2")
OFFLINE = {"wandb": ("logger=[wandb]", "logger.wandb.offline=true"), "mlflow": ("logger=[mlflow]",)}


def shown(log: RunLogger) -> None:
    """What a run shows beside its numbers."""
    log.describe("seed: 0", {"coupling": "ExactCoupling", "seed": 0}, ["test/w2"])
    log.log_metrics({"val/w2": 2.0}, 5)
    log.picture("gallery", torch.full((3, 8, 12), 7, dtype=torch.uint8), 5)
    log.sound("sound_0/source", torch.arange(400, dtype=torch.int16), 8000, 5)
    log.clouds("source", torch.rand(2, 5, 3), torch.zeros(2, 5, 3, dtype=torch.uint8), 5)
    log.conclude({"test/w2": 1.0, "train/seconds": 3.0}, 6)
    log.close()


def trained(folder: Path, name: str) -> None:
    """A run of twenty steps that is resumed to thirty."""
    runs.run(folder, *OFFLINE[name], *FAST)
    from omegaconf import OmegaConf

    remember_programs(OmegaConf.to_container(RunFolder(folder, trust=True).read_config()))
    stage.resume(RunFolder(folder), ["trainer.max_steps=30"])


def test_mlflow_on_disk_holds_numbers_pictures_sounds_and_clouds(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    log = MlflowLogger(tmp_path)
    shown(log)
    client, number = log.experiment, log.run_id
    run = client.get_run(number)
    assert run.data.metrics == {"val/w2": 2.0, "test/w2": 1.0} and run.data.params["coupling"] == "ExactCoupling"
    assert {"gallery", "sound_0", "source_0", "source_1", "config.yaml"} <= {
        f.path for f in client.list_artifacts(number)
    }
    assert [f.path for f in client.list_artifacts(number, "sound_0/source")] == ["sound_0/source/step_00000005.wav"]
    place = Path(client.download_artifacts(number, "source_1/step_00000005.ply", str(tmp_path)))
    assert place.read_text().startswith("ply\nformat ascii 1.0\nelement vertex 5\n")
    again = MlflowLogger(tmp_path, 5)
    assert again.run_id == number, "a resumed run goes on in its run"


def test_a_run_goes_on_in_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    trained(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    number = (tmp_path / "mlflow" / "id.txt").read_text()
    steps = [m.step for m in client.get_metric_history(number, "test/nfe")]
    assert steps == [20, 30]
    assert client.get_run(number).data.params["trainer.max_steps"] == "20"
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_offline_holds_numbers_pictures_sounds_and_clouds(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logging.getLogger("wandb").setLevel(logging.ERROR)
    log = WandbLogger(tmp_path, offline=True)
    shown(log)
    number = (tmp_path / "wandb" / "id.txt").read_text()
    (place,) = (tmp_path / "wandb").glob("offline-run-*")
    assert number in place.name
    kinds = {path.suffix for path in (place / "files" / "media").rglob("*") if path.is_file()}
    assert {".png", ".wav"} <= kinds and any("object3D" in str(path) for path in place.rglob("*")), kinds
    record = next(place.glob("*.wandb"))
    limit = time.monotonic() + 60  # wandb's own process writes the record, sometimes after the run has ended
    while b"val/w2" not in record.read_bytes() and time.monotonic() < limit:
        time.sleep(0.1)
    assert b"val/w2" in record.read_bytes() and b"ExactCoupling" in record.read_bytes()
    assert WandbLogger(tmp_path, 5, offline=True)._id == number, "a resumed run goes on under its identifier"


def test_a_run_goes_on_in_wandb(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained(tmp_path, "wandb")
    number = (tmp_path / "wandb" / "id.txt").read_text()
    places = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(places) == 2 and all(number in place.name for place in places)
    assert "test/nfe" in json.loads((tmp_path / "metrics.json").read_text())
