"""What a run leaves in its folder, and what TensorBoard can read of it."""

import io
import json
import time
from pathlib import Path

import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from flowport.modality import PixelCloud, Plane
from flowport.run.build import Run, build
from flowport.run.run_folder import RunFolder
from flowport.run.train import build_trainer
from flowport.training.callback import SampleLogger
from flowport.training.logger import TensorboardLogger as Board
from flowport.training.logger import as_table, charts
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
        "sides.json",
        "checkpoints/last.ckpt",
        "metrics.json",
        "gallery.png",
        "translation.png",
        "items.csv",
        "examples/show.json",
        "examples/source.png",
        "examples/target.png",
        "examples/translation.png",
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
    assert scalars["val/w2"] == [10, 20]
    for rate in ("train/learning_rate", "train/gradient_norm", "coupling/cost", "coupling/pair_cost"):
        assert scalars[rate] == scalars["train/loss"]
    assert scalars["test/w2"] == scalars["test/nfe"] == [20]
    assert not [tag for tag in scalars if tag.endswith(("_n", "_floor", "_untranslated")) or tag == "epoch"]
    for reference in ("floor", "untranslated"):  # runs of their own, so that one chart holds the metric and them
        beside = EventAccumulator(str(folder / "tensorboard" / reference), {"scalars": 0}).Reload()
        assert sorted(beside.Tags()["scalars"]) == ["test/w2", "val/w2"]
        assert [e.step for e in beside.Scalars("val/w2")] == [10, 20]
        found = beside.Scalars("test/w2")[-1].value
        assert found == pytest.approx(json.loads((folder / "metrics.json").read_text())[f"test/w2_{reference}"])
    pictures = events.Images("gallery")
    assert [e.step for e in pictures] == [10, 20]
    with Image.open(io.BytesIO(pictures[-1].encoded_image_string)) as picture:
        assert min(picture.size) > 32


def texts(events: EventAccumulator, tag: str) -> list[tuple[int, str]]:
    as_shown = plugin_event_accumulator.EventAccumulator(events.path, {"tensors": 0})  # the other keeps dropped texts
    found = as_shown.Reload().Tensors(f"{tag}/text_summary")
    return [(e.step, make_ndarray(e.tensor_proto)[0].decode()) for e in found]


def written(folder: Path, tag: str) -> int:
    """How often a tag is written in all event files; the accumulator keeps the first of what has no value."""
    files = (folder / "tensorboard").glob("events.out.*")
    events = (event for file in files for event in LegacyEventFileLoader(str(file)).Load())
    return sum(value.tag == tag for event in events for value in event.summary.value)


def plugin_data(events: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)


def test_a_run_records_its_choices_its_config_and_its_results(folder: Path) -> None:
    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0}).Reload()
    chosen = plugin_data(events, "session_start_info").session_start_info.hparams
    assert chosen["coupling"].string_value == "ExactCoupling" and chosen["trainer.max_steps"].number_value == 20
    metrics = [info.name.tag for info in plugin_data(events, "experiment").experiment.metric_infos]
    assert metrics == ["test/item_cycle_error", "test/item_transport_cost", "test/nfe", "test/w2"]
    assert plugin_data(events, "session_end_info").session_end_info.status == api_pb2.STATUS_SUCCESS
    ((step, text),) = texts(events, "config")
    assert step == 0 and text.startswith("```yaml\n") and text.endswith("\n```")
    assert OmegaConf.create(text[8:-4]) == OmegaConf.load(folder / ".hydra" / "config.yaml")
    ((step, text),) = texts(events, "results")
    numbers = json.loads((folder / "metrics.json").read_text())
    row = next(line for line in text.splitlines() if line.startswith("| test/w2 "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    wanted = [numbers[f"test/w2{end}"] for end in ("", "_floor", "_untranslated")]
    assert step == 20 and [float(cells[k]) for k in (1, 2, 3)] == pytest.approx(wanted, rel=1e-4)
    assert float(cells[5]) == numbers["test/w2_n"] and "_floor" not in text


def test_a_resume_goes_on_in_the_same_record(tmp_path: Path) -> None:
    """Also after a resume that had nothing to do; the logged steps are those of an unbroken run."""
    from flowport.run import stage

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    every = "trainer.log_every_n_steps=5"
    runs.run(broken, every, "scheduler=constant")
    stage.resume(RunFolder(broken), ["trainer.max_steps=30"])
    stage.resume(RunFolder(broken), [])
    runs.run(whole, every, "scheduler=constant", "trainer.max_steps=30")
    seen = {}
    for name in (broken, whole):
        events = EventAccumulator(str(name / "tensorboard"), {"tensors": 0}).Reload()
        for tag in ("train/loss", "train/gradient_norm", "coupling/cost", "train/learning_rate"):
            seen[name.name, tag] = [(e.step, e.value) for e in events.Scalars(tag)]
        assert len(texts(events, "config")) == written(name, "_hparams_/session_start_info") == 1
        assert [step for step, _ in texts(events, "results")] == ([20, 30] if name == broken else [30])
        last = json.loads((name / "metrics.json").read_text())["test/w2"]
        assert events.Scalars("test/w2")[-1].value == pytest.approx(last)
    events = EventAccumulator(str(broken / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("val/w2")] == [e.step for e in events.Scalars("test/w2")] == [20, 30]
    for tag in ("train/loss", "train/gradient_norm", "coupling/cost", "train/learning_rate"):
        assert len(seen["whole", tag]) == 6 and seen["broken", tag] == seen["whole", tag], tag


def test_what_was_recorded_after_the_last_checkpoint_is_replaced(tmp_path: Path) -> None:
    for done, values in ((None, {5: 1.0, 10: 1.0, 15: 1.0}), (10, {15: 2.0})):
        board = Board(tmp_path, done)
        for step, value in values.items():
            board.log_metrics({"val/w2": value, "val/w2_floor": value, "val/w2_n": 64, "epoch": 0}, step)
        board.finalize("failed" if done is None else "success")
        time.sleep(1.1)  # the order of event files is that of their seconds
    for place in (tmp_path / "tensorboard", tmp_path / "tensorboard" / "floor"):
        events = EventAccumulator(str(place)).Reload()
        assert events.Tags()["scalars"] == ["val/w2"]
        assert [(e.step, e.value) for e in events.Scalars("val/w2")] == [(5, 1.0), (10, 1.0), (15, 2.0)]
    board.close()


def test_a_metric_has_its_references_in_its_chart_and_its_number_of_points_in_none() -> None:
    numbers = {"val/a": 1.0, "val/a_floor": 2.0, "val/a_n": 3, "val/b_floor": 4.0, "train/i_n": 5.0, "val/c_se": 6.0}
    assert charts(numbers) == {
        "": {"val/a": 1.0, "val/b_floor": 4.0, "train/i_n": 5.0, "val/c_se": 6.0},
        "floor": {"val/a": 2.0},
    }
    assert "| val/a | 1 | 2 |  |  | 3 |" in as_table(numbers).splitlines()


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
    shapes = {
        (name, kind): torch.from_numpy(make_ndarray(events.Tensors(f"{name}_{kind}")[-1].tensor_proto).copy())
        for name in ("source", "translation", "target")
        for kind in ("VERTEX", "COLOR")
    }
    points, colours = shapes["translation", "VERTEX"], shapes["translation", "COLOR"]
    outcome = run.evaluation.outcome(
        run.module.ema, run.module.source, run.module.target, run.module.randomness, "validation"
    )
    evenly = torch.tensor([0, 1, 3, 4])  # of six
    for name, x in (("source", outcome.source.x), ("translation", outcome.result), ("target", outcome.target.x)):
        torch.testing.assert_close(shapes[name, "VERTEX"], x[evenly].transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert colours.shape == (4, 16, 3) and torch.equal(colours, shapes["source", "COLOR"])
    assert (outcome.result[evenly, 2].argmax(1) != outcome.source.x[evenly, 2].argmax(1)).all()
    highest = outcome.target.x[evenly, 2].argmax(1)
    assert shapes["target", "COLOR"][torch.arange(4), highest].tolist() == [[253, 231, 37]] * 4
    highest = outcome.source.x[evenly, 2].argmax(1)
    shown = colours[torch.arange(4), highest].tolist()
    assert shown == [[253, 231, 37]] * 4, "the end of the colour map is for the highest point of the source"
    assert Plane().vertices(points, points) is None and PixelCloud().vertices(points, points) is None


def logged_run(folder: Path, *words: str) -> Run:
    """A run of a step of one batch of four, with the pictures and sounds that are logged."""
    few = ["trainer.max_steps=1", "evaluation_items=5", "data.batch=4", "data.pool=1", "grid.steps=1", "solver=euler"]
    config = runs.prepared(folder, "metric=[straightness]", "coupling=independent", *few, *words)
    run = build(config)
    trainer = build_trainer(config, RunFolder(folder), [SampleLogger(run.evaluation, folder / "gallery.png")])
    trainer.fit(run.module, run.data)
    return run


def test_tensorboard_plays_source_translation_and_target(tmp_path: Path) -> None:
    run = logged_run(tmp_path, "experiment=timbre_flute_to_brass", "source.train=20", "target.train=20")
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"audio": 0, "images": 0}).Reload()
    rows = ("source", "target", "translation")
    assert sorted(events.Tags()["audio"]) == [f"sound_{k}/{name}" for k in range(3) for name in rows]
    outcome = run.evaluation.outcome(
        run.module.ema, run.module.source, run.module.target, run.module.randomness, "validation"
    )
    whole = {"source": outcome.source.x, "translation": outcome.result, "target": outcome.target.x}
    for name, x in whole.items():
        sound = run.module.target.modality.sound(x[torch.arange(3) * len(x) // 3])
        for k, wave in enumerate(sound.waves):
            (event,) = events.Audio(f"sound_{k}/{name}")
            heard, rate = soundfile.read(io.BytesIO(event.encoded_audio_string))
            assert event.step == 1 and rate == sound.rate and len(heard) == len(wave)
            assert float((torch.from_numpy(heard) - wave / 32768).abs().max()) < 1e-3
    assert events.Images("gallery")[-1].height > 100


def test_tensorboard_shows_the_gallery_of_images_and_no_sound_or_cloud(tmp_path: Path) -> None:
    logged_run(tmp_path, "experiment=digits_to_mnist", "data.validation_items=4")
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()
    (event,) = events.Images("gallery")
    with Image.open(io.BytesIO(event.encoded_image_string)) as seen, Image.open(tmp_path / "gallery.png") as kept:
        assert event.step == 1 and min(seen.size) > 60
        assert seen.convert("RGB").tobytes() == kept.convert("RGB").tobytes()
    tags = events.Tags()
    assert tags["audio"] == tags["tensors"] == [] and tags["images"] == ["gallery"]
