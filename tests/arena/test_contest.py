"""A contest trains a method within its budget of calls, and says what came of it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from flowport.adjoint import Exact
from flowport.arena import contest
from flowport.arena.contest import Counted
from flowport.change import Control
from flowport.errors import Refusal
from flowport.grid import Uniform
from flowport.network import MLP
from flowport.objective import AdjointMatching, PathWeighted, Tuning
from flowport.reward import Linear
from flowport.schedule import WarmupCosine
from flowport.shapes import Condition
from flowport.world import FromNoise
from tests import runs


def tried(objective: Tuning, calls: int = 6400, own: int | None = None, **words: Any) -> dict[str, float]:
    """own: rounds of the world."""
    world = FromNoise([1.0], [[0.5]], [1.0, 0.6], 0.3, [0.8, 0.4], calls=calls, starts=128, rounds=own)
    return contest(
        world, objective, partial(Control, network=partial(MLP, width=32)), 1.0, partial(torch.optim.Adam, lr=1e-2),
        partial(WarmupCosine, warmup=0), partial(Trainer, accelerator="cpu", enable_model_summary=False),
        **{"fresh": 64, "points": 512, "ema_decay": 0.9, **words},
    )  # fmt: skip


def test_a_method_learns_within_its_calls() -> None:
    found = tried(AdjointMatching(Exact(Uniform(4))), calls=1300)
    assert found["arena/calls"] == 1280, "of 64 starts each"
    assert found["train/steps"] == 20
    assert found["arena/velocity_error"] < 0.5, "the base itself has 1"
    assert 0 < found["arena/kl"] < 2 * found["arena/exact_kl"]


def test_a_contest_repeats_to_the_last_digit_and_follows_its_seed() -> None:
    first, again, other = (tried(AdjointMatching(Exact(Uniform(2))), 64, points=2, seed=s) for s in (0, 0, 1))
    assert {**again, "train/seconds": 0} == {**first, "train/seconds": 0}
    assert other["arena/velocity_error"] != first["arena/velocity_error"]


def test_a_method_of_many_rounds_has_the_same_calls_and_more_steps() -> None:
    found = tried(PathWeighted(Uniform(4), late=None, rounds=3, batch=64), calls=500, points=64)
    assert found["arena/calls"] == 384, "three collections of 128; a fourth would cost more than is left"
    assert found["train/steps"] == 9
    assert (
        tried(PathWeighted(Uniform(4), late=None, rounds=3, batch=64), calls=300, points=64, rounds=5)["train/steps"]
        == 10
    )
    assert tried(AdjointMatching(Exact(Uniform(2))), calls=128, points=64, rounds=5)["train/steps"] == 2, (
        "single steps stay"
    )


def test_a_world_s_own_rounds_come_first_for_every_method() -> None:
    for objective in PathWeighted(Uniform(4), late=None, batch=64), AdjointMatching(Exact(Uniform(2))):
        found = tried(objective, calls=256, own=3, points=64, rounds=5)
        assert found["train/steps"] == 6, "two collections of 128"


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(Refusal, match=r"world.calls=100 is too small: one collection takes 128"):
        tried(PathWeighted(Uniform(4), late=None), calls=100)
    with pytest.raises(Refusal, match="fresh and points must be at least 1 and 2"):
        tried(PathWeighted(Uniform(4)), points=1)
    with pytest.raises(Refusal, match="rounds must be at least 1"):
        tried(PathWeighted(Uniform(4)), rounds=0)


def test_calls_are_counted_with_and_without_gradients() -> None:
    reward, x = Counted(Linear([1.0, 2.0])), torch.ones(5, 2)
    assert torch.equal(reward.value(x, Condition()), torch.full((5,), 3.0))
    assert torch.equal(reward.value_and_gradient(x, Condition())[1], torch.tensor([[1.0, 2.0]]).expand(5, 2))
    assert reward.calls == 10


def test_the_launcher_writes_its_numbers(capfd: Any, tmp_path: Path) -> None:
    words = ["world=bridge_moons", "objective=path_weighted", "world.calls=64", "world.starts=4", "objective.rounds=2",
             "objective.grid.steps=4", "points=64", f"hydra.run.dir={tmp_path}"]  # fmt: skip
    said = runs.here(capfd, "arena.py", *words)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["arena/calls"] == 64
    assert {"arena/signal", "arena/slope", "arena/w2_floor", "train/seconds"} <= set(found)
    assert "arena/kl_to_tilt" in said.out
    made = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert runs.here(capfd, "arena.py", *words).code == 0
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == made, "a contest that is finished is not run again"
    assert runs.here(capfd, "arena.py", *words, "points=32").code == 0
    assert (tmp_path / "metrics.json").stat().st_mtime_ns > made, "another one is"
    slip = runs.here(capfd, "arena.py", "world=nowhere", f"hydra.run.dir={tmp_path}")
    assert "world=nowhere does not exist: choose bridge_gaussian" in slip.sentence
