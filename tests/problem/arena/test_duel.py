"""A duel trains a method within its budget of calls, and says what came of it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from flowport.errors import FlowportError
from flowport.finetuning.adapter import ControlAdapter
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import AdjointMatching, FineTuningMethod, PathWeighted
from flowport.network import MLP
from flowport.problem import NoiseProblem
from flowport.problem.arena import duel
from flowport.problem.arena.duel import CountingReward
from flowport.reward import LinearReward
from flowport.sampling.grid import UniformGrid
from flowport.training.scheduler import CosineScheduler
from flowport.types import Condition
from tests import runs
from tests.problem.test_law import problem


def tried(method: FineTuningMethod, calls: int = 6400, own: int | None = None, **words: Any) -> dict[str, float]:
    """own: steps per rollout of the problem."""
    problem = NoiseProblem([1.0], [[0.5]], [1.0, 0.6], 0.3, [0.8, 0.4], calls=calls, starts=128, steps_per_rollout=own)
    return duel(
        problem,
        method,
        partial(ControlAdapter, network=partial(MLP, width=32)),
        1.0,
        partial(torch.optim.Adam, lr=1e-2),
        partial(CosineScheduler, warmup=0),
        partial(Trainer, accelerator="cpu", enable_model_summary=False),
        **{"fresh": 64, "points": 512, "ema_decay": 0.9, **words},
    )


def test_a_method_learns_within_its_calls() -> None:
    found = tried(AdjointMatching(ConsistentDiscretisation(UniformGrid(4))), calls=1300)
    assert found["arena/calls"] == 1280, "of 64 starts each"
    assert found["train/steps"] == 20
    assert found["arena/velocity_error"] < 0.5, "the base itself has 1"
    assert 0 < found["arena/kl"] < 2 * found["arena/exact_kl"]


def test_a_duel_repeats_to_the_last_digit_and_follows_its_seed() -> None:
    first, again, other = (
        tried(AdjointMatching(ConsistentDiscretisation(UniformGrid(2))), 64, points=2, seed=s) for s in (0, 0, 1)
    )
    assert {**again, "train/seconds": 0} == {**first, "train/seconds": 0}
    assert other["arena/velocity_error"] != first["arena/velocity_error"]


def test_a_method_of_many_rounds_has_the_same_calls_and_more_steps() -> None:
    found = tried(PathWeighted(UniformGrid(4), late=None, steps_per_rollout=3, batch=64), calls=500, points=64)
    assert found["arena/calls"] == 384, "three collections of 128; a fourth would cost more than is left"
    assert found["train/steps"] == 9
    assert (
        tried(
            PathWeighted(UniformGrid(4), late=None, steps_per_rollout=3, batch=64),
            calls=300,
            points=64,
            steps_per_rollout=5,
        )["train/steps"]
        == 10
    )
    assert (
        tried(AdjointMatching(ConsistentDiscretisation(UniformGrid(2))), calls=128, points=64, steps_per_rollout=5)[
            "train/steps"
        ]
        == 2
    ), "single steps stay"


def test_a_problem_s_own_steps_per_rollout_come_first_for_every_method() -> None:
    for method in (
        PathWeighted(UniformGrid(4), late=None, batch=64),
        AdjointMatching(ConsistentDiscretisation(UniformGrid(2))),
    ):
        found = tried(method, calls=256, own=3, points=64, steps_per_rollout=5)
        assert found["train/steps"] == 6, "two collections of 128"


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(FlowportError, match=r"problem.calls=100 is too small: one collection takes 128"):
        tried(PathWeighted(UniformGrid(4), late=None), calls=100)
    with pytest.raises(FlowportError, match="fresh and points must be at least 1 and 2"):
        tried(PathWeighted(UniformGrid(4)), points=1)
    with pytest.raises(FlowportError, match="steps_per_rollout=0 must be at least 1"):
        tried(PathWeighted(UniformGrid(4)), steps_per_rollout=0)


def test_numbers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(FlowportError, match="points=1001 must be a multiple of 4, the starts of this problem"):
        duel(
            problem("bridge_gaussian"),
            PathWeighted(grid=UniformGrid(4)),
            partial(ControlAdapter, network=MLP),
            1.0,
            torch.optim.Adam,
            None,
            partial(Trainer, accelerator="cpu"),
            points=1001,
        )


def test_calls_are_counted_with_and_without_gradients() -> None:
    reward, x = CountingReward(LinearReward([1.0, 2.0])), torch.ones(5, 2)
    assert torch.equal(reward.value(x, Condition()), torch.full((5,), 3.0))
    assert torch.equal(reward.value_and_gradient(x, Condition())[1], torch.tensor([[1.0, 2.0]]).expand(5, 2))
    assert reward.calls == 10


def test_the_launcher_writes_its_numbers(capfd: Any, tmp_path: Path) -> None:
    words = [
        "problem=bridge_moons",
        "method=path_weighted",
        "problem.calls=64",
        "problem.starts=4",
        "method.steps_per_rollout=2",
        "method.grid.steps=4",
        "points=64",
        f"hydra.run.dir={tmp_path}",
    ]
    said = runs.here(capfd, "arena.py", *words)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["arena/calls"] == 64
    assert {"arena/signal", "arena/slope", "arena/w2_floor", "train/seconds"} <= set(found)
    assert "arena/kl_to_tilt" in said.out
    made = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert runs.here(capfd, "arena.py", *words).code == 0
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == made, "a finished duel is not run again"
    assert runs.here(capfd, "arena.py", *words, "points=32").code == 0
    assert (tmp_path / "metrics.json").stat().st_mtime_ns > made, "another one is"
    slip = runs.here(capfd, "arena.py", "problem=nowhere", f"hydra.run.dir={tmp_path}")
    assert "problem=nowhere does not exist: choose bridge_gaussian" in slip.sentence
