"""Paths, conversions, samples and likelihoods against Meta's flow_matching, whose noise is our source."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.distribution import Gaussian
from flowport.divergence import Divergence, Exact
from flowport.grid import Uniform
from flowport.likelihood import Likelihood
from flowport.path import Functions, Linear, Polynomial, Trigonometric, VariancePreserving
from flowport.prediction import Source, Target, Velocity
from flowport.shapes import Condition, Pair, Sample
from flowport.solver import Euler, Midpoint
from flowport.translator import Translator
from flowport.volatility import Zero
from tests.laws.oracles import FROM_NOISE, Composition, points

theirs = pytest.importorskip("flow_matching.path")
schedulers = pytest.importorskip("flow_matching.path.scheduler")
solvers = pytest.importorskip("flow_matching.solver")

T = torch.linspace(0.02, 0.98, 12, dtype=torch.float64)
X0, X1 = points(12)
PATHS = {
    "linear": (Linear(), schedulers.CondOTScheduler()),
    "polynomial": (Polynomial(3.0, 3.0), schedulers.PolynomialConvexScheduler(3)),
    "trigonometric": (Trigonometric(), schedulers.CosineScheduler()),
    "variance_preserving": (VariancePreserving(), schedulers.VPScheduler()),
    "functions": (Functions(lambda t: (1 - t**2).sqrt(), lambda t: t), schedulers.LinearVPScheduler()),
}
CONVERSIONS = [
    (Velocity(), Target(), "velocity_to_target"), (Velocity(), Source(), "velocity_to_epsilon"),
    (Target(), Velocity(), "target_to_velocity"), (Target(), Source(), "target_to_epsilon"),
    (Source(), Velocity(), "epsilon_to_velocity"), (Source(), Target(), "epsilon_to_target"),
]  # fmt: skip


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
    found = other.output(one.hub(X1, X0, c, None), c, None)
    close(found, getattr(theirs.AffineProbPath(scheduler), name)(X1, X0, t))


def flow():
    """The field of a mixture from noise, and the same as their solver calls it: one time, any shape (n, *D)."""
    field = Composition(Trigonometric(), SourceIsNoise(), Velocity()).field(FROM_NOISE["mixture"])
    return field, lambda x, t: field.velocity(x, t.to(x).expand(len(x)), Condition())


@pytest.mark.parametrize(("solver", "method"), [(Euler(), "euler"), (Midpoint(), "midpoint")])
def test_solvers_give_the_same_samples(solver, method):
    field, velocity = flow()
    grid = Uniform(10)
    ours = Translator(field, solver, grid, Zero()).forward(Sample(X0), torch.Generator())
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
    source, grid = Gaussian(dtype="float64"), Uniform(10)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        probe = (torch.randn_like(X1) < 0) * 2.0 - 1.0
        torch.default_generator.manual_seed(3)
        _, found = solvers.ODESolver(velocity).compute_likelihood(
            X1, source.log_prob, None, method, time_grid=grid.times(field.path).flip(0), exact_divergence=exact
        )
    divergence = Exact() if exact else Given(probe)
    ours, _ = Likelihood(field, source, solver, grid, divergence).log_prob(Sample(X1), torch.Generator())
    close(ours, found)
