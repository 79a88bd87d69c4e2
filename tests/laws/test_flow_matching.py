"""Paths, conversions, samples and likelihoods against Meta's flow_matching, whose noise is our source."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.distribution import Gaussian
from flowport.path import FunctionsPath, LinearPath, PolynomialPath, TrigonometricPath, VariancePreservingPath
from flowport.prediction import SourcePrediction, TargetPrediction, VelocityPrediction
from flowport.sampling.divergence import Divergence, ExactDivergence
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver import Euler, Midpoint
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition, Pair, Sample
from tests.laws.oracles import FROM_NOISE, Composition, points

theirs = pytest.importorskip("flow_matching.path")
schedulers = pytest.importorskip("flow_matching.path.scheduler")
solvers = pytest.importorskip("flow_matching.solver")

T = torch.linspace(0.02, 0.98, 12, dtype=torch.float64)
X0, X1 = points(12)
PATHS = {
    "linear": (LinearPath(), schedulers.CondOTScheduler()),
    "polynomial": (PolynomialPath(3.0, 3.0), schedulers.PolynomialConvexScheduler(3)),
    "trigonometric": (TrigonometricPath(), schedulers.CosineScheduler()),
    "variance_preserving": (VariancePreservingPath(), schedulers.VPScheduler()),
    "functions": (FunctionsPath(lambda t: (1 - t**2).sqrt(), lambda t: t), schedulers.LinearVPScheduler()),
}
CONVERSIONS = [
    (VelocityPrediction(), TargetPrediction(), "velocity_to_target"),
    (VelocityPrediction(), SourcePrediction(), "velocity_to_epsilon"),
    (TargetPrediction(), VelocityPrediction(), "target_to_velocity"),
    (TargetPrediction(), SourcePrediction(), "target_to_epsilon"),
    (SourcePrediction(), VelocityPrediction(), "epsilon_to_velocity"),
    (SourcePrediction(), TargetPrediction(), "epsilon_to_target"),
]


def close(ours, other):
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_paths_give_the_same_points_and_velocities(name):
    path, scheduler = PATHS[name]
    ours = path.sample(Pair(Sample(X0), Sample(X1)), T, None)
    found = theirs.AffineProbPath(scheduler).sample(X0, X1, T)
    close(ours.x, found.x_t)
    close(ours.velocity, found.dx_t)


@pytest.mark.parametrize(("one", "other", "name"), CONVERSIONS, ids=[name for _, _, name in CONVERSIONS])
@pytest.mark.parametrize("path", PATHS)
def test_outputs_convert_alike(path, one, other, name):
    ours, scheduler = PATHS[path]
    c, t = ours.coefficients(T), T[:, None]
    found = other.output(one.flow_state(X1, X0, c, None), c, None)
    close(found, getattr(theirs.AffineProbPath(scheduler), name)(X1, X0, t))


def flow():
    """The field of a mixture from noise, and the same as their solver calls it: one time, any shape (n, *D)."""
    field = Composition(TrigonometricPath(), SourceIsNoise(), VelocityPrediction()).field(FROM_NOISE["mixture"])
    return field, lambda x, t: field.velocity(x, t.to(x).expand(len(x)), Condition())


@pytest.mark.parametrize(("solver", "method"), [(Euler(), "euler"), (Midpoint(), "midpoint")])
def test_solvers_give_the_same_samples(solver, method):
    field, velocity = flow()
    grid = UniformGrid(10)
    ours = Translator(field, solver, grid, ZeroVolatility()).forward(Sample(X0), torch.Generator())
    close(ours.end, solvers.ODESolver(velocity).sample(X0, None, method, time_grid=grid.times(field.path)))


@pytest.fixture
def double():
    """Their probes and their log p start in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Given(Divergence):
    """One probe that is given."""

    def __init__(self, probe):
        super().__init__()
        self.probe = probe

    def directions(self, x, generator):
        return self.probe[None]


@pytest.mark.parametrize(("solver", "method"), [(Euler(), "euler"), (Midpoint(), "midpoint")])
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("exact", [True, False])
def test_likelihoods_are_the_same(solver, method, exact):
    """Exact and with one Rademacher probe, which they draw from torch's own generator."""
    field, velocity = flow()
    source, grid = Gaussian(dtype="float64"), UniformGrid(10)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        probe = (torch.randn_like(X1) < 0) * 2.0 - 1.0
        torch.default_generator.manual_seed(3)
        _, found = solvers.ODESolver(velocity).compute_likelihood(
            X1, source.log_prob, None, method, time_grid=grid.times(field.path).flip(0), exact_divergence=exact
        )
    divergence = ExactDivergence() if exact else Given(probe)
    ours, _ = Likelihood(field, source, solver, grid, divergence).log_prob(Sample(X1), torch.Generator())
    close(ours, found)
