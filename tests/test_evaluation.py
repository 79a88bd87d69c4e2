"""The common evaluation: held-out points, a disjoint floor, and numbers that a seed decides."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from flowport import experiment
from flowport.distribution import Flute, Notes, TensorFile
from flowport.evaluation import record, reference_cost
from flowport.modality import LogMel, Plane
from flowport.randomness import Randomness
from tests import runs


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


@pytest.mark.parametrize("part", ["test", "validation"])
def test_the_floor_of_stored_data_is_disjoint_from_what_is_measured(part: str, tmp_path: Path) -> None:
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "points.npy", points.numpy())
    run = experiment.build(runs.configured("distribution@target=tensor", f"target.path={tmp_path}/points.npy"))
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness, part)
    data = TensorFile(str(tmp_path / "points.npy"))
    assert rows(outcome.target.x) == rows(data.split(part).every(64, Randomness(0)).x)
    assert not rows(outcome.target.x) & rows(outcome.floor.x)
    assert rows(outcome.floor.x) <= rows(points)
    assert len(outcome.floor) == len(outcome.source) == len(outcome.result) == 64


def test_analytic_laws_give_target_and_floor_of_their_own() -> None:
    run = experiment.build(runs.configured())
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    assert not rows(outcome.target.x) & rows(outcome.floor.x)
    other = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness, "validation")
    assert not rows(outcome.source.x) & rows(other.source.x)


def test_an_outcome_is_a_function_of_seed_and_field() -> None:
    run = experiment.build(runs.configured())
    module = run.module
    first = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    torch.manual_seed(99)
    again = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    other = run.evaluation.outcome(module.ema, module.source, module.target, replace(module.randomness, seed=1))
    assert torch.equal(first.states, again.states) and torch.equal(first.floor.x, again.floor.x)
    assert not torch.equal(first.source.x, other.source.x)
    assert run.evaluation.measure(first) == run.evaluation.measure(again)


def test_measuring_twice_is_not_measuring_a_sum(trained: Path) -> None:
    run, _ = experiment.restore(trained)
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    numbers = [run.evaluation.measure(outcome) for _ in range(2)]
    assert numbers[0] == numbers[1]
    told = json.loads((trained / "metrics.json").read_text())
    assert {f"test/{k}": v for k, v in numbers[0].items()}.items() <= told.items()


def test_the_reference_cost_is_of_the_pair_and_not_of_the_seed() -> None:
    first = experiment.build(runs.configured()).module
    other = experiment.build(runs.configured("seed=5")).module
    assert reference_cost(first.source, first.target, 256) == reference_cost(other.source, other.target, 256) > 0


def test_what_can_be_heard_is_written_beside_the_picture(tmp_path):
    notes = Notes(Flute(), train=16).draw(torch.arange(3), None).x
    record({"source": notes, "real target": notes[:1]}, LogMel(), tmp_path / "gallery.png")
    names = sorted(p.name for p in (tmp_path / "gallery").iterdir())
    assert names == ["real_target_0.wav", "source_0.wav", "source_1.wav", "source_2.wav"]
    rate, wave = wavfile.read(tmp_path / "gallery" / "source_1.wav")
    assert rate == 8000 and torch.equal(torch.from_numpy(wave.copy()), LogMel().decode(notes)[1])
    record({"source": torch.zeros(2, 2)}, Plane(), tmp_path / "silent.png")
    assert not (tmp_path / "silent").exists()
