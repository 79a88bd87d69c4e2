"""Floors and values are comparable: of one held-out law, of as many points, without partners in the reference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowport.coupling import IndependentCoupling
from flowport.data.agreement import agreed
from flowport.distribution.base import Stored
from flowport.evaluation.evaluator import Evaluator
from flowport.evaluation.held_out import partner_items, real_points
from flowport.metric import Wasserstein, wasserstein_2
from flowport.modality import Plane
from flowport.randomness import Randomness
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import Euler
from flowport.sampling.volatility import ZeroVolatility
from flowport.training.compose import compose


def stored(raw: Tensor, named: bool = False, train: int = 40, part: str = "train") -> Stored:
    n, held = len(raw), (len(raw) - train) // 2
    cuts = {"train": (0, train), "validation": (train, train + held), "test": (train + held, n)}
    splits = {name: torch.arange(*cut) for name, cut in cuts.items()}
    names = tuple(f"{k:03}.npy" for k in range(n)) if named else ()
    return Stored("points", raw, None, Plane(), splits, part, names=names)


def cloud(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def nobody(n: int) -> Tensor:
    return torch.full((n,), -1)


def test_a_large_test_split_is_divided_alone_and_a_small_one_is_joined_with_validation() -> None:
    law = stored(cloud(120, 0))  # 40 test, 40 validation
    large = real_points(law, "test", 100, nobody(15), Randomness())
    assert (len(large.reference), len(large.floor)) == (25, 15) and large.law.size == 40
    small = real_points(law, "test", 100, nobody(30), Randomness())
    assert (len(small.reference), len(small.floor)) == (50, 30) and small.law.size == 80
    alone = real_points(law, "validation", 100, nobody(30), Randomness())
    assert (len(alone.reference), len(alone.floor)) == (20, 20)
    assert large.reference.id is not None and large.floor.id is not None
    assert not set(large.reference.id.tolist()) & set(large.floor.id.tolist())


def test_three_items_are_a_reference_without_a_floor() -> None:
    real = real_points(stored(cloud(46, 0)), "validation", 100, nobody(9), Randomness())
    assert (len(real.reference), len(real.floor), real.compared) == (3, 0, None)


def test_two_halves_have_the_distance_of_two_independent_samples() -> None:
    """E SW of the halves is that of new draws; the training split with replacement, as it was, lies above."""
    halves, fresh, training = [], [], []
    for seed in range(60):
        law = stored(cloud(120, seed))
        real = real_points(law, "test", 20, nobody(20), Randomness(seed))
        halves.append(float(wasserstein_2(real.floor.x, real.reference.x)))
        fresh.append(float(wasserstein_2(cloud(20, 1000 + seed), cloud(20, 2000 + seed))))
        again = law.split("train").sample(20, torch.Generator().manual_seed(seed))
        training.append(float(wasserstein_2(again.x, real.reference.x)))
    error = (np.var(halves) / 60 + np.var(fresh) / 60) ** 0.5
    assert abs(np.mean(halves) - np.mean(fresh)) < 3 * error
    assert np.mean(training) > np.mean(halves)


def test_no_partner_of_a_compared_translation_is_in_the_reference() -> None:
    source, target = agreed(stored(cloud(120, 0), named=True), stored(cloud(120, 1), named=True))
    found = partner_items(source.split("test"), target.split("test"))
    assert found is not None and torch.equal(found, torch.arange(40))
    real = real_points(target, "test", 100, found, Randomness())
    assert real.compared is None, "40 partners are the floor, 40 items of validation the reference"
    assert real.floor.id is not None and sorted(real.floor.id.tolist()) == list(range(40))
    alone = real_points(target, "validation", 100, found, Randomness())
    assert alone.compared is not None and alone.reference.id is not None
    assert not set(found[alone.compared].tolist()) & set(alone.reference.id.tolist())
    assert len(alone.compared) == 20


def test_the_true_translation_is_exactly_as_near_as_the_floor() -> None:
    """T(x0) is the partner: the value equals the floor, and with its partners in the reference it would be below."""
    source, target = agreed(stored(cloud(120, 0), named=True), stored(cloud(120, 1), named=True))
    flow, _ = compose(source, target, coupling=IndependentCoupling())
    evaluation = Evaluator(Sampler(Euler(), UniformGrid(1), ZeroVolatility()), {"wasserstein": Wasserstein()}, 64)
    outcome = evaluation.outcome(flow.ema, source, target, Randomness(0))
    assert outcome.partner is not None
    object.__setattr__(outcome, "result", outcome.partner)
    found = evaluation.measure(outcome)
    assert found["w2"] == pytest.approx(found["w2_floor"], rel=1e-9)
    assert found["w2_untranslated"] != pytest.approx(found["w2_floor"], rel=1e-3)


def test_a_partner_in_another_split_is_none() -> None:
    source, target = stored(cloud(120, 0), named=True), stored(cloud(120, 1), named=True)
    other = target.with_splits(
        {"train": torch.arange(80, 120), "test": torch.arange(40), "validation": torch.arange(9)}
    )
    assert partner_items(source.split("test"), other.split("test")) is None
    assert partner_items(stored(cloud(120, 0)), target) is None


def test_a_label_of_a_conditional_flow_is_that_of_the_floor(tmp_path: Path) -> None:
    law = stored(cloud(120, 0))
    law.labels = torch.arange(120) % 4
    law.classes = 4
    real = real_points(law, "test", 100, nobody(15), Randomness())
    assert real.told is not None and real.floor.label is not None and torch.equal(real.told, real.floor.label)
