"""log p1 of exact fields against the density of the exact end law, on every path whose start has one."""

import math

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise, UnconditionedBridge
from flowport.conditioning import SourceLabelConditioning, TargetLabelConditioning
from flowport.distribution import Gaussian, Mixture, Moons
from flowport.errors import FlowportError
from flowport.field.guidance import RewardGuidance
from flowport.path import LinearPath, SmoothBridge, TrigonometricPath, VarianceExplodingPath
from flowport.prediction import VelocityPrediction
from flowport.reward import LinearReward
from flowport.sampling.divergence import Divergence, ExactDivergence, RademacherDivergence
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver import RK4, Ancestral, Dopri5, Euler, EulerMaruyama, Heun
from flowport.types import Sample
from tests.laws.oracles import COMPOSITIONS, COUPLED, FROM_NOISE, VELOCITIES, Composition, compositions, points
from tests.laws.test_oracle import BENT
from tests.zoo import DIVERGENCES, named

CLASSIC = RK4()
NOISE = torch.Generator().manual_seed(0)
close = torch.testing.assert_close
ZERO = torch.zeros(1)


def law_at(pairing, path, t: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and covariances of x_t, written out."""
    c = path.coefficients(torch.tensor([t], dtype=torch.float64))
    a, b, g = c.alpha, c.beta, 0 if c.gamma is None else c.gamma
    s = a**2 * pairing.s0 + b**2 * pairing.s1 + a * b * (pairing.cross + pairing.cross.mT) + g**2 * torch.eye(2)
    return pairing.log_weights.exp(), a * pairing.m0 + b * pairing.m1, s


def start_of(pairing, path) -> Mixture:
    """The source for which α(0) x0 has exactly the law of x_0: some paths begin with a share of the target."""
    w, m, s = law_at(pairing, path, 0.0)
    a = path.alpha(torch.zeros(1, dtype=torch.float64))
    return Mixture(w, m / a, s / a**2, "float64")


def found(c: Composition, kind: str, solver=CLASSIC, steps=12, divergence: Divergence | None = None):
    pairing = c.joint(kind)
    x, _ = points(9)
    likelihood = Likelihood(
        c.field(pairing), start_of(pairing, c.path), solver, UniformGrid(steps), divergence or ExactDivergence()
    )
    return likelihood.log_prob(Sample(x), NOISE), Mixture(*law_at(pairing, c.path, 1.0), "float64").log_prob(x)


SERVED = [
    (name, c)
    for name, c in VELOCITIES
    if isinstance(c.role, UnconditionedBridge if c.path.bridge else SourceIsNoise) and bool(c.path.gamma(ZERO) == 0)
]
OTHERS = [(name, c) for name, c in COMPOSITIONS if name.startswith("polynomial-SourceIsNoise")]


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("c", **compositions(SERVED))
def test_likelihood_is_the_density_of_the_end(c, kind):
    (log_p, _), exact = found(c, kind, Dopri5(1e-6, 1e-6))
    close(log_p, exact, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("c", **compositions(OTHERS))
def test_any_prediction_gives_the_density(c):
    """Within what standing still a thousandth from the ends costs."""
    (log_p, _), exact = found(c, "gaussian")
    close(log_p, exact, rtol=0, atol=2e-2)


def test_an_adaptive_solver_is_as_exact_as_it_is_told():
    c, errors = Composition(LinearPath(), NoNoise(), VelocityPrediction()), []
    for tolerance in (1e-4, 1e-7):
        (log_p, _), exact = found(c, "mixture", Dopri5(tolerance, tolerance), 1)
        errors.append(float((log_p - exact).abs().max()))
    assert errors[0] < 5e-2 and errors[1] < 5e-5, errors


def test_error_falls_with_the_order_of_the_solver():
    c = Composition(TrigonometricPath(), NoNoise(), VelocityPrediction())
    for solver in (Euler(), Heun(), RK4()):
        errors = []
        for steps in (10, 20):
            (log_p, nfe), exact = found(c, "mixture", solver, steps)
            errors.append(float((log_p - exact).square().mean().sqrt()))
            assert nfe == steps * len(solver.tableau.nodes)
        assert math.log(errors[0] / errors[1], 2) > solver.order - 0.4, errors


def test_any_event_shape_and_chunks_give_the_same_density():
    c = Composition(LinearPath(), NoNoise(), VelocityPrediction())
    (flat, _), _ = found(c, "mixture", RK4(), 10)
    pairing, x = c.joint("mixture"), points(9)[0]

    class Folded(Mixture):
        """The mixture of points (1, 2, 1)."""

        def log_prob(self, x):
            return super().log_prob(x.flatten(1))

    Folded.__final__ = False
    w, m, s = law_at(pairing, c.path, 0.0)
    likelihood = Likelihood(
        c.field(pairing), Folded(w, m, s, "float64"), RK4(), UniformGrid(10), ExactDivergence(chunk=1), chunk=4
    )
    close(likelihood.log_prob(Sample(x.view(9, 1, 2, 1)), NOISE)[0], flat)


@pytest.mark.parametrize("make", **named(DIVERGENCES))
def test_divergence_is_the_trace_on_average(make):
    """Of a matrix field written out, within 3 standard errors of 4000 rows; all of a known variance."""
    matrix = torch.tensor([[0.3, 1.2, -0.4], [0.5, -1.0, 0.2], [0.9, 0.1, 2.0]], dtype=torch.float64)
    x = torch.ones(4000, 3, 1, dtype=torch.float64)
    divergence = make()
    directions = divergence.directions(x, torch.Generator().manual_seed(1))
    v, traces = divergence.value_and_divergence(lambda p: matrix @ p, x, directions)
    close(v, matrix @ x)
    error = traces.std() / math.sqrt(len(x))
    assert float((traces.mean() - matrix.trace()).abs()) <= 3 * float(error) + 1e-12
    each = (
        directions.expand(-1, *x.shape).flatten(2)[..., None] * directions.expand(-1, *x.shape).flatten(2)[:, :, None]
    ).sum(0)
    close(each.mean(0), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.08)


@pytest.mark.parametrize("make", [m for n, m in DIVERGENCES if n != "exact"])
def test_hutchinson_is_unbiased_through_the_whole_flow(make):
    """400 probes of one point: the mean of the estimates of log p, which keep their probe along the way."""
    c = Composition(LinearPath(), NoNoise(), VelocityPrediction())
    pairing, x = c.joint("mixture"), points(1)[0]
    likelihood = Likelihood(c.field(pairing), start_of(pairing, c.path), RK4(), UniformGrid(20), make())
    estimates, _ = likelihood.log_prob(Sample(x.expand(400, 2)), torch.Generator().manual_seed(2))
    exact = Mixture(*law_at(pairing, c.path, 1.0), "float64").log_prob(x)
    error = float(estimates.std()) / 20
    assert error > 1e-3
    assert float((estimates.mean() - exact).abs()) < 3 * error


def test_a_probe_is_kept_along_the_way():
    """So the estimate, wrong as it is, is one number that finer steps approach."""
    c = Composition(LinearPath(), NoNoise(), VelocityPrediction())
    pairing, x = c.joint("mixture"), points(9)[0]
    coarse, fine = (
        Likelihood(
            c.field(pairing), start_of(pairing, c.path), RK4(), UniformGrid(steps), RademacherDivergence()
        ).log_prob(Sample(x), torch.Generator().manual_seed(2))[0]
        for steps in (12, 24)
    )
    exact = Mixture(*law_at(pairing, c.path, 1.0), "float64").log_prob(x)
    assert float((coarse - fine).abs().max()) < 1e-3 < 0.1 < float((fine - exact).abs().max())


def test_one_rademacher_probe_is_exact_in_one_dimension():
    c = Composition(LinearPath(), NoNoise(), VelocityPrediction())
    source = Mixture(BENT.log_weights.exp(), BENT.m0, BENT.s0, "float64")
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    a, b = (
        Likelihood(c.field(BENT), source, RK4(), UniformGrid(10), divergence).log_prob(Sample(x), NOISE)[0]
        for divergence in (ExactDivergence(), RademacherDivergence())
    )
    close(a, b)


def test_the_density_given_a_label_is_that_of_its_own_field():
    """A field that is one Gaussian's for label 0 and another's for label 1."""
    c = Composition(LinearPath(), NoNoise(), VelocityPrediction())
    fields = [c.field(COUPLED["gaussian"]), c.field(COUPLED["mixture"])]

    class Labelled(type(fields[0])):
        def forward(self, x, t, condition):
            both = [field(x, t, condition) for field in fields]
            return torch.where(condition.label[:, None] == 0, *both)

    field = Labelled(COUPLED["gaussian"], c.path, c.prediction, TargetLabelConditioning(), fields[0].capabilities)
    source, x = start_of(COUPLED["gaussian"], c.path), points(6)[0]
    label = torch.tensor([0, 1, 0, 1, 1, 0])
    whole = Likelihood(field, source, RK4(), UniformGrid(8), ExactDivergence(), chunk=4).log_prob(
        Sample(x, label), NOISE
    )[0]
    for k in (0, 1):
        alone = Likelihood(fields[k], source, RK4(), UniformGrid(8), ExactDivergence()).log_prob(Sample(x), NOISE)[0]
        close(whole[label == k], alone[label == k])
    with pytest.raises(FlowportError, match="say which target label"):
        Likelihood(field, source, RK4(), UniformGrid(8), ExactDivergence()).log_prob(Sample(x), NOISE)


def _field(path=None, role=None, conditioning=None):
    c = Composition(path or LinearPath(), role or NoNoise(), VelocityPrediction())
    field = c.field(COUPLED["gaussian"])
    field.conditioning = conditioning or field.conditioning
    return field


@pytest.mark.parametrize(
    ("field", "source", "solver", "says"),
    [
        (_field(), Moons(), RK4(), "a source with a density, which Moons does not have"),
        (_field(LinearPath(noise=0.4), UnconditionedBridge()), Gaussian(), RK4(), "path=linear blurs with noise"),
        (_field(SmoothBridge(), ConditionedBridge()), Gaussian(), RK4(), "sees its start"),
        (_field(conditioning=SourceLabelConditioning()), Gaussian(), RK4(), "start's label"),
        (_field(), Gaussian(), EulerMaruyama(), "solver=euler_maruyama cannot integrate"),
        (_field(), Gaussian(), Ancestral(), "solver=ancestral cannot integrate"),
    ],
)
def test_what_has_no_density_is_refused(field, source, solver, says):
    with pytest.raises(FlowportError, match=says):
        Likelihood(field, source, solver, UniformGrid(4), ExactDivergence())


def test_guided_fields_and_padding_are_refused():
    field = Composition(VarianceExplodingPath(), SourceIsNoise(), VelocityPrediction()).field(FROM_NOISE["gaussian"])
    with pytest.raises(FlowportError, match="guidance by a reward"):
        Likelihood(
            RewardGuidance(field, LinearReward([1.0, 0.0])), Gaussian(), RK4(), UniformGrid(4), ExactDivergence()
        )
    x = points(2)[0]
    with pytest.raises(FlowportError, match="points without padding"):
        Likelihood(field, Gaussian(), RK4(), UniformGrid(4), ExactDivergence()).log_prob(Sample(x, mask=x > 0), NOISE)
