"""A learnt base is near the exact one, and a problem it cannot be drawn from is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Trainer

from flowport.distribution import Gaussian, Moons
from flowport.errors import FlowportError
from flowport.network import MLP
from flowport.problem import BridgeProblem, NoiseProblem, Problem
from flowport.problem.arena.learned_base import learned_base
from flowport.problem.arena.score import sampled
from flowport.types import Sample

LAW: dict[str, Any] = {"weights": [1.0], "means": [[1.5, -1.0]], "deviations": [0.8, 0.4], "turns": 0.5, "c": [1.0]}
TRAINER = partial(Trainer, accelerator="cpu", enable_model_summary=False)


@pytest.mark.parametrize("made", [lambda: NoiseProblem(**LAW), lambda: BridgeProblem(Moons(), **LAW)])
def test_a_learnt_base_has_the_law_of_the_problem(made: Callable[[], Problem]) -> None:
    problem, generator = made(), torch.Generator().manual_seed(0)
    field = learned_base(problem, partial(MLP, width=32), TRAINER, 300, seed=0)
    start = problem.scored_starts(2048, generator)
    with torch.no_grad():
        end = sampled(field, problem, start, field.conditioning.sampling(Sample(start), None), generator).double()
    law = problem.base_law(start)
    assert (end.mean(0) - law.mean[0]).norm() < 0.25, "noise is 1.8 away, the moons 2.1"
    assert (end.T.cov() - law.covariances[0]).norm() < 0.25, "noise 1.0, the moons 1.1"


def test_correlated_ends_are_refused() -> None:
    with pytest.raises(FlowportError, match="pretraining needs a problem of independent ends"):
        learned_base(BridgeProblem(Gaussian(event_shape=[2]), **LAW, correlation=0.5), MLP, TRAINER, 1, seed=0)
