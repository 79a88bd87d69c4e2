"""What a run leaves in its folder, and what TensorBoard can read of it."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from flowport.modality import PixelCloud, Plane
from flowport.run.build import build
from flowport.run.run_folder import RunFolder
from flowport.run.train import build_trainer
from flowport.training.callback import SampleLogger
from tests import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    runs.run(folder, "trainer.val_check_interval=10", "trainer.log_every_n_steps=5")
    return folder


def test_the_folder_of_a_run(folder: Path) -> None:
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts}
    assert found == {
        ".hydra/config.yaml",
        "built_by.json",
        "checkpoints/last.ckpt",
        "metrics.json",
        "gallery.png",
        "translation.png",
    }
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
    from flowport.run import stage

    runs.run(tmp_path)
    stage.resume(RunFolder(tmp_path), ["trainer.max_steps=30"])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("val/w2")] == [20, 30]


def test_tensorboard_reads_translated_clouds_in_space(tmp_path: Path) -> None:
    """Four translations of 16 points as the evaluation has them, in the colours of the heights of their sources."""
    words = [
        "experiment=solids_ellipsoid_to_torus",
        "metric=[straightness]",
        "source.points=16",
        "target.points=16",
        "trainer.max_steps=1",
        "evaluation_items=6",
        "data.pool=1",
        "data.batch=4",
        "network.depth=1",
    ]
    config = runs.prepared(tmp_path, *words)
    run = build(config)
    for weights in run.module.ema.parameters():  # an untrained flow would leave every height as it is
        torch.nn.init.normal_(weights, std=0.5, generator=torch.Generator().manual_seed(0))
    trainer = build_trainer(config, RunFolder(tmp_path), [SampleLogger(run.evaluation, tmp_path / "gallery.png")])
    trainer.fit(run.module, run.data)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0}).Reload()
    points, colours = (
        torch.from_numpy(make_ndarray(events.Tensors(f"translation_{kind}")[-1].tensor_proto).copy())
        for kind in ("VERTEX", "COLOR")
    )
    outcome = run.evaluation.outcome(
        run.module.ema, run.module.source, run.module.target, run.module.randomness, "validation"
    )
    torch.testing.assert_close(points, outcome.result[:4].transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert colours.shape == (4, 16, 3)
    assert (outcome.result[:4, 2].argmax(1) != outcome.source.x[:4, 2].argmax(1)).all()
    highest = outcome.source.x[:4, 2].argmax(1)
    shown = colours[torch.arange(4), highest].tolist()
    assert shown == [[253, 231, 37]] * 4, "the end of the colour map is for the highest point of the source"
    assert Plane().vertices(points, points) is None and PixelCloud().vertices(points, points) is None
