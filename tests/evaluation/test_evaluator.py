"""The common evaluation: held-out points, a disjoint floor, and numbers that a seed decides."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from flowport.coupling import IndependentCoupling
from flowport.distribution import Brass, EightGaussians, Flute, Gaussian, Moons, Notes, TensorFile
from flowport.evaluation import evaluator
from flowport.evaluation.evaluator import Evaluator, gallery, record, reference_cost
from flowport.metric import NormalisedPathEnergy, SpectralDistance
from flowport.modality import LogMel, Plane
from flowport.modality.base import Sound
from flowport.randomness import Randomness
from flowport.run.build import build
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import Euler
from flowport.sampling.volatility import ZeroVolatility
from flowport.training.compose import compose
from tests import runs
from tests.metric.outcomes import outcome_of


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


@pytest.mark.parametrize("part", ["test", "validation"])
def test_floor_and_reference_are_disjoint_halves_of_the_same_held_out_items(part: str, tmp_path: Path) -> None:
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "points.npy", points.numpy())
    run = build(runs.configured("distribution@target=tensor_file", f"target.path={tmp_path}/points.npy"))
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness, part)
    data = TensorFile(str(tmp_path / "points.npy"))
    held_out = [data.split(name).every(300, Randomness(0)).x for name in ("test", "validation")]
    known = rows(torch.cat(held_out)) if part == "test" else rows(held_out[1])  # 30 items for 64 sources: both halves
    assert rows(outcome.target.x) | rows(outcome.floor.x) == known
    assert not rows(outcome.target.x) & rows(outcome.floor.x)
    assert len(outcome.floor) == len(outcome.target) == len(known) // 2
    assert len(outcome.source) == len(outcome.result) == 64


def test_analytic_laws_give_target_and_floor_of_their_own() -> None:
    run = build(runs.configured())
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    assert not rows(outcome.target.x) & rows(outcome.floor.x)
    other = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness, "validation")
    assert not rows(outcome.source.x) & rows(other.source.x)


def test_an_outcome_is_a_function_of_seed_and_field() -> None:
    run = build(runs.configured())
    module = run.module
    first = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    torch.manual_seed(99)
    again = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    other = run.evaluation.outcome(module.ema, module.source, module.target, replace(module.randomness, seed=1))
    assert torch.equal(first.states, again.states) and torch.equal(first.floor.x, again.floor.x)
    assert not torch.equal(first.source.x, other.source.x)
    assert run.evaluation.measure(first) == run.evaluation.measure(again)


def test_measuring_twice_is_not_measuring_a_sum(trained: Path) -> None:
    run = restore(RunFolder(trained))
    module = run.module
    outcome = run.evaluation.outcome(module.ema, module.source, module.target, module.randomness)
    numbers = [run.evaluation.measure(outcome) for _ in range(2)]
    assert numbers[0] == numbers[1]
    reported = json.loads((trained / "metrics.json").read_text())
    assert {f"test/{k}": v for k, v in numbers[0].items()}.items() <= reported.items()


def test_the_reference_cost_is_of_the_pair_and_not_of_the_seed() -> None:
    first = build(runs.configured()).module
    other = build(runs.configured("seed=5")).module
    assert reference_cost(first.source, first.target, 256) == reference_cost(other.source, other.target, 256) > 0


def test_the_reference_cost_of_a_pair_is_computed_once_also_where_two_ask_at_once(tmp_path, monkeypatch) -> None:
    """By content: another number of draws, or another pair, has a number of its own; a damaged file counts as none."""
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path))
    solved, true = [], evaluator.wasserstein_2
    monkeypatch.setattr(evaluator, "wasserstein_2", lambda *pair: (solved.append(1), true(*pair))[1])
    said = list[float]()
    asked = [
        threading.Thread(target=lambda: said.append(reference_cost(EightGaussians(), Moons(), 512, 4)))
        for _ in range(3)  # a file lock excludes threads as it does processes
    ]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    assert len(said) == 3 and len(set(said)) == 1 and len(solved) == 4
    for source, target, draws in ((EightGaussians(), Moons(), 3), (EightGaussians(), Gaussian(2), 4)):
        assert reference_cost(source, target, 512, draws) != said[0]
    assert len(solved) == 11
    for kept in (tmp_path / "reference_cost").glob("*.json"):
        kept.write_text("[]")
    assert reference_cost(EightGaussians(), Moons(), 512, 4) == said[0] and len(solved) == 15
    monkeypatch.setenv("FLOWPORT_HOME", "/proc/nowhere")  # which cannot be written
    assert reference_cost(EightGaussians(), Moons(), 512, 4) == said[0]


def test_a_second_job_of_a_pair_spends_almost_nothing_on_its_reference_cost(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path))
    monkeypatch.setattr(evaluator, "wasserstein_2", lambda *pair: torch.tensor(2.0))  # 13 s of transport otherwise
    assert reference_cost(EightGaussians(), Moons()) == 4
    began = time.process_time()
    assert reference_cost(EightGaussians(), Moons()) == 4
    assert time.process_time() - began < 0.1


def test_a_second_pair_has_a_reference_cost_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(*pair: object) -> float:
        asked.append(pair)
        return float(len(asked))

    monkeypatch.setattr("flowport.evaluation.evaluator.reference_cost", counted)
    metrics = {"normalised_path_energy": NormalisedPathEnergy()}
    evaluation = Evaluator(Sampler(Euler(), UniformGrid(1), ZeroVolatility()), metrics, items=8)
    first, second = (Gaussian(2), Moons()), (Gaussian(2), EightGaussians())
    costs = []
    for source, target in (first, first, second):
        flow, _ = compose(source, target, coupling=IndependentCoupling())
        costs.append(evaluation.outcome(flow.ema, source, target, Randomness(0)).reference_cost)
    assert costs == [1.0, 1.0, 2.0]


def test_what_can_be_heard_is_written_beside_the_picture(tmp_path):
    notes = Notes(Flute(), train=20).draw(torch.arange(3), None).x
    record({"source": notes, "real target": notes[:1]}, LogMel(), tmp_path / "gallery.png")
    names = sorted(p.name for p in (tmp_path / "gallery").iterdir())
    assert names == ["real_target_0.wav", "source_0.wav", "source_1.wav", "source_2.wav"]
    rate, wave = wavfile.read(tmp_path / "gallery" / "source_1.wav")
    assert rate == 8000 and torch.equal(torch.from_numpy(wave.copy()), LogMel().decode(notes)[1])
    record({"source": torch.zeros(2, 2)}, Plane(), tmp_path / "silent.png")
    assert not (tmp_path / "silent").exists()


def test_a_note_knows_its_partner_and_the_nearest_note_that_training_has_seen() -> None:
    source, target = Notes(Flute(), train=20), Notes(Brass(), score=1, train=20)
    flow, _ = compose(source, target, coupling=IndependentCoupling())
    sampler = Sampler(Euler(), UniformGrid(1), ZeroVolatility())
    evaluation = Evaluator(sampler, {"spectral_distance": SpectralDistance()}, items=12)
    outcome = evaluation.outcome(flow.ema, source, target, Randomness(0))
    held_out = target.split("test").draw(torch.arange(12) * 400 // 12, None).x
    seen = target.draw(torch.arange(12), None).x
    assert outcome.partner is not None and torch.equal(outcome.partner, held_out)
    seen = torch.cat([seen, target.draw(torch.arange(12, 20), None).x])
    nearest = torch.cdist(outcome.source.x.flatten(1), seen.flatten(1)).argmin(1)
    assert outcome.retrieved is not None and torch.equal(outcome.retrieved, seen[nearest])
    assert outcome.modality is target.modality
    evaluation.metrics = {}
    other = evaluation.outcome(flow.ema, source, target, Randomness(0), "train")
    assert other.partner is None and other.retrieved is None, "two scores share no training note, and nobody asked"


class Kept(Plane):
    """Keeps the rows that it is to draw; every point is a moment of silence."""

    shown = 8

    def sound(self, x: torch.Tensor) -> Sound:
        return Sound(torch.zeros(len(x), 4, dtype=torch.int16), 8000)

    def render(self, rows: dict[str, torch.Tensor], path: str, unrelated=()) -> torch.Tensor:
        self.rows = rows
        return torch.empty(3, 0, 0, dtype=torch.uint8)


def test_the_gallery_shows_points_from_all_over_the_set_and_where_they_went(tmp_path: Path) -> None:
    outcome, modality = outcome_of(n=60, condition_label=None), Kept()
    gallery(outcome, modality, tmp_path / "g.png")
    shown = torch.tensor([0, 7, 15, 22, 30, 37, 45, 52])
    assert list(modality.rows) == ["source", "t = 0.25", "t = 0.50", "t = 0.75", "translation", "real target"]
    for name, row in zip(
        ("source", "t = 0.25", "translation"), (outcome.source.x, outcome.states[1], outcome.result), strict=True
    ):
        assert torch.equal(modality.rows[name], row[shown])
    assert {tuple(x) for x in modality.rows["real target"].tolist()} < {tuple(x) for x in outcome.floor.x.tolist()}
    assert len(list((tmp_path / "g").glob("*.wav"))) == 3 * 4, "four sounds of source, translation and target"


def test_columns_of_the_gallery_follow_the_classes_that_the_flow_was_told(tmp_path: Path) -> None:
    outcome, modality = outcome_of(n=60), Kept()
    gallery(outcome, modality, tmp_path / "g.png")
    assert outcome.condition_label is not None and outcome.condition_label[:4].tolist() == [0, 1, 2, 0]
    order = [*range(0, 60, 3), *range(1, 60, 3), *range(2, 60, 3)]
    shown = [order[k] for k in (0, 7, 15, 22, 30, 37, 45, 52)]
    assert torch.equal(modality.rows["translation"], outcome.result[shown])
