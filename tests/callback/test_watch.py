"""What a run leaves in its folder, and what TensorBoard can read of it."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    runs.run(folder, "trainer.val_check_interval=10", "trainer.log_every_n_steps=5")
    return folder


def test_the_folder_of_a_run(folder: Path) -> None:
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts}
    assert found == {".hydra/config.yaml", "checkpoints/last.ckpt", "metrics.json", "gallery.png"}
    numbers = json.loads((folder / "metrics.json").read_text())
    assert {"test/w2", "test/w2_floor", "train/steps", "train/seconds", "train/step_ms"} <= set(numbers)
    assert all(isinstance(v, int | float) and v == v for v in numbers.values()), numbers
    assert all(name.count("/") == 1 for name in numbers)
    assert numbers["train/steps"] == 20
    assert numbers["train/step_ms"] * 20 / 1000 == pytest.approx(numbers["train/seconds"], abs=0.01)
    with Image.open(folder / "gallery.png") as picture:
        picture.load()
        assert min(picture.size) > 32


def test_tensorboard_reads_losses_metrics_and_pictures(folder: Path) -> None:
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    scalars = {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert len(scalars["train/loss"]) == 4
    assert len(scalars["val/loss"]) == 2
    assert scalars["val/w2"] == scalars["val/w2_floor"] == [10, 20]
    pictures = events.Images("gallery")
    assert [e.step for e in pictures] == [10, 20]
    with Image.open(io.BytesIO(pictures[-1].encoded_image_string)) as picture:
        assert min(picture.size) > 32


def test_a_resume_goes_on_in_the_same_record(folder: Path, tmp_path: Path) -> None:
    from flowport import stage

    runs.run(tmp_path)
    stage.resume(tmp_path, ["trainer.max_steps=30"])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("val/w2")] == [20, 30]
