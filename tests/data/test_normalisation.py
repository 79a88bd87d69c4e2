"""What is measured on the training data is measured once: the run owns the numbers, whatever becomes of the data."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from flowport.data.normalisation import measured, moments
from flowport.distribution import AudioFolder, Digits, Gaussian
from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT, LogMel, Spectrogram
from flowport.run import stage
from flowport.run.evaluate import measure
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from tests import runs

MEL = {"window": 256, "hop": 128, "bands": 16}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


def recorded(folder: Path, level: float, n: int = 20, samples: int = 2048) -> Path:
    folder.mkdir(exist_ok=True)
    for k in range(n):
        wave = level * np.random.default_rng(k).uniform(-1, 1, samples if k % 2 else samples // 2)
        soundfile.write(folder / f"{k:02}.wav", wave, 8000)
    return folder


def sides(tmp_path: Path, modality: Spectrogram, **options: Any) -> tuple[AudioFolder, AudioFolder]:
    quiet, loud = recorded(tmp_path / "quiet", 0.05, 30), recorded(tmp_path / "loud", 0.5)
    return tuple(AudioFolder(str(f), 2048, modality=modality, **options) for f in (quiet, loud))  # type: ignore[return-value]


def points(data: AudioFolder) -> torch.Tensor:
    found = data.draw(torch.arange(data.size), None)
    return (found.x.flatten() if found.mask is None else found.x[found.mask]).double()


@pytest.mark.parametrize("mask", [False, True])
def test_training_points_of_both_sides_together_have_mean_zero_and_spread_one(tmp_path: Path, mask: bool) -> None:
    found = measured(*sides(tmp_path, LogMel(**MEL, mean=None, std=None), mask_padding=mask))
    assert found["source"] == found["target"] and list(found["source"]) == ["mean", "std"]
    measured_values = sides(tmp_path, LogMel(**MEL, **found["source"]), mask_padding=mask)
    both = torch.cat([points(side) for side in measured_values])
    assert abs(float(both.mean())) < 1e-4 and float(both.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    alone = [float(points(side).mean()) for side in measured_values]
    assert alone[1] - alone[0] > 0.5, "the difference in level stays"
    assert measured(*measured_values) == {}


def test_one_of_two_numbers_may_be_given(tmp_path: Path) -> None:
    plain = sides(tmp_path, LogMel(**MEL, mean=0.0, std=1.0))
    mean, std = moments(list(plain))
    for given in ({"mean": -40.0, "std": None}, {"mean": None, "std": 3.0}):
        found = measured(*sides(tmp_path, LogMel(**MEL, **given)))["target"]
        (option,) = (name for name, value in given.items() if value is None)
        assert found == {option: pytest.approx({"mean": mean, "std": std}[option], rel=1e-5)}


def test_the_scale_of_a_complex_spectrum_is_its_root_mean_square(tmp_path: Path) -> None:
    found = measured(*sides(tmp_path, ComplexSTFT(window=256, scale=None)))
    both = torch.cat([points(s) for s in sides(tmp_path, ComplexSTFT(window=256, **found["source"]))])
    assert float(both.square().mean()) == pytest.approx(1, abs=1e-4)


def test_sides_of_another_kind_are_not_asked_and_half_a_normalisation_is_refused(tmp_path: Path) -> None:
    quiet, loud = sides(tmp_path, LogMel(**MEL, mean=None, std=None))
    assert list(measured(Gaussian(event_shape=[1, 16, 16]), loud)) == ["target"]
    assert measured(Digits(), Digits()) == {}
    given = AudioFolder(str(tmp_path / "loud"), 2048, modality=LogMel(**MEL))
    with pytest.raises(
        FlowportError, match=r"source.modality leaves mean, std null and target.modality leaves nothing null"
    ):
        measured(quiet, given)
    silent = AudioFolder(str(recorded(tmp_path / "silent", 0.0)), 2048, modality=LogMel(**MEL, mean=None, std=None))
    with pytest.raises(FlowportError, match="all training points of source and target are equal"):
        measured(silent, silent)


def test_a_run_keeps_its_numbers_when_its_data_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["coupling=independent", "trainer.max_steps=2", "evaluation_items=8", "data.batch=8"]
    for side, level in (("source", 0.05), ("target", 0.5)):
        path = recorded(tmp_path / side, level)
        words += [f"distribution@{side}=audio_folder", f"{side}.path={path}", f"{side}.samples=2048"]
        words += [f"{side}.modality.{o}=null" for o in ("mean", "std")]
        words += [f"{side}.modality.{o}={v}" for o, v in MEL.items()]
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        numbers = runs.run(folder, *words)
    lines = [r.getMessage() for r in caplog.records if "measured on the training data" in r.getMessage()]
    kept = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert len(lines) == 1 and f"source.modality.mean={kept.source.modality.mean}" in lines[0]
    assert kept.source.modality.mean == kept.target.modality.mean < -20

    before = json.loads((folder / "metrics.json").read_text())
    again = restore(RunFolder(folder))
    assert runs.measured({k: v for k, v in before.items() if "test/" in k}) == runs.measured(
        measure(again, RunFolder(tmp_path), torch.device("cpu"))
    )
    for side in ("source", "target"):
        recorded(tmp_path / side, 0.9)
    changed = restore(RunFolder(folder))
    for side in ("source", "target"):
        modality, known = getattr(changed.module, side).modality, kept[side].modality
        assert (modality.mean, modality.std) == (known.mean, known.std)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        stage.resume(RunFolder(folder), ["trainer.max_steps=3"])
    assert "measured" not in caplog.text
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").source == kept.source
    assert numbers["train/steps"] == 2
