"""The zoo is complete: every public concrete member of a family stands in its list, once by each id."""

import inspect
from importlib import import_module

import pytest

from flowport.conditioning import Conditioning
from flowport.cost import Cost
from flowport.coupling import Coupling
from flowport.distribution import Distribution
from flowport.finetuning.method import FineTuningMethod
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import Weighting
from flowport.path import Path
from flowport.prediction import Prediction
from flowport.reward import Reward
from flowport.sampling.divergence import Divergence
from flowport.sampling.grid import Grid
from flowport.sampling.process import ClosedFormProcess
from flowport.sampling.solver import Solver
from flowport.sampling.volatility import Volatility
from tests import zoo

FAMILIES = [
    ("path", Path, zoo.PATHS),
    ("prediction", Prediction, zoo.PREDICTIONS),
    ("coupling", Coupling, zoo.COUPLINGS),
    ("sampling.solver", Solver, zoo.SOLVERS),
    ("sampling.grid", Grid, zoo.GRIDS),
    ("sampling.volatility", Volatility, zoo.VOLATILITIES),
    ("objective.time_sampler", TimeSampler, zoo.TIME_SAMPLERS),
    ("objective.weighting", Weighting, zoo.WEIGHTINGS),
    ("cost", Cost, zoo.COSTS),
    ("conditioning", Conditioning, zoo.CONDITIONINGS),
    ("distribution", Distribution, zoo.DISTRIBUTIONS),
    ("reward", Reward, zoo.REWARDS),
    ("finetuning.method", FineTuningMethod, zoo.TUNINGS),
    ("sampling.process", ClosedFormProcess, zoo.PROCESSES),
    ("sampling.divergence", Divergence, zoo.DIVERGENCES),
]
ELSEWHERE = {
    "TensorFile",
    "ImageFolder",
    "AudioFolder",
    "CloudFolder",
    "HuggingFace",
    "Spoken",
    "FromFileReward",
    "PlainReward",
    "CLIPScore",
}  # need a file, an extra or own code: tests/distribution/, tests/reward/


@pytest.mark.parametrize(("name", "base", "members"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_every_member_is_listed(name, base, members):
    ids = [key for key, _ in members]
    assert len(set(ids)) == len(ids)
    listed = {type(make()).__name__ for _, make in members}
    own = vars(import_module(f"flowport.{name}")).values()
    tested_by_parameters = {"Mixture", "RungeKutta", "Stored"} - listed  # built from their own arguments only
    public = {
        v.__name__
        for v in own
        if inspect.isclass(v) and issubclass(v, base) and not inspect.isabstract(v) and not v.__name__.startswith("_")
    }
    assert public - ELSEWHERE - tested_by_parameters == listed
