"""One flow, many samplers: which of them are the same, what they do not see, and that all reach the same moments."""

import math

import pytest
import torch
from scipy.optimize import brentq

from flowport.capabilities import NoNoise, SourceIsNoise, UnconditionedBridge
from flowport.errors import FlowportError
from flowport.field import LearnedField
from flowport.path import (
    LinearPath,
    PolynomialPath,
    SmoothBridge,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from flowport.prediction import BridgePrediction, TargetPrediction, VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import (
    DDIM,
    Ancestral,
    Churn,
    Dopri5,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    MeanEnd,
    ShortcutSolver,
    StochasticHeun,
)
from flowport.sampling.solver.exponential import weights
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, SineVolatility, ZeroVolatility
from flowport.types import Condition, Sample
from tests.laws.oracles import COMPOSITIONS, COUPLED, FROM_NOISE, SCORED, Composition, JointMixture, moments, points
from tests.laws.recursion import Moments, affine, push, reached
from tests.zoo import SOLVERS, named

close = torch.testing.assert_close
SCHEDULES = [
    LinearPath(),
    TrigonometricPath(),
    PolynomialPath(1.5, 3.0),
    VariancePreservingPath(),
    VarianceExplodingPath(),
]
TIMES = torch.linspace(0, 1, 8, dtype=torch.float64)


def seeded():
    return torch.Generator().manual_seed(0)


def moving(path, prediction=None, kind="mixture", role=None):
    composition = Composition(path, role or SourceIsNoise(), prediction or VelocityPrediction())
    return Dynamics(composition.field(composition.joint(kind)), Condition(), ZeroVolatility())


def at_ratio(path, ratio):
    """The time at which α/β of a path has a value."""

    def beyond(t):
        a, b = weights(path, t)
        return a - ratio * b

    return brentq(beyond, 0.0, 1.0, xtol=1e-15, rtol=1e-14)


@pytest.mark.parametrize(
    ("prediction", "times"), [(TargetPrediction(), TIMES), (VelocityPrediction(), 0.01 + 0.98 * TIMES)]
)
@pytest.mark.parametrize("role", [SourceIsNoise(), NoNoise()])
def test_ddim_on_the_straight_path_is_euler(role, prediction, times):
    x, _ = points(9)
    for grid in (times, times.flip(0)):
        ends = [
            solver.solve(moving(LinearPath(), prediction, role=role), x, grid, seeded(), all_states=True).states
            for solver in (DDIM(), Euler())
        ]
        close(*ends, rtol=0, atol=1e-12)
        assert float((ends[0][-1] - x).abs().max()) > 0.5


def run_by_ratio(solver, path):
    """x_k/β_k along one sequence of α/β, from one x/β, with one noise."""
    times = torch.tensor([at_ratio(path, r) for r in (9.0, 5.0, 2.0, 1.1, 0.6, 0.2, 0.05)], dtype=torch.float64)
    beta = path.beta(times)[:, None, None]
    return (
        solver.solve(moving(path), points(9)[0] * 10 * beta[0], times, seeded(), all_states=True).states[:-1]
        / beta[:-1]
    )


@pytest.mark.parametrize("solver", [DDIM(), DPMSolver(), Ancestral()], ids=lambda s: type(s).__name__)
def test_solvers_by_end_points_do_not_see_the_schedule(solver):
    first, *others = (run_by_ratio(solver, path) for path in SCHEDULES)
    for other in others:
        close(first, other, rtol=0, atol=1e-9)


def test_euler_sees_the_schedule():
    """But for the straight path and the exploding one, on which α/β and 1/β are linear in each other."""
    first, *others = (run_by_ratio(Euler(), path) for path in SCHEDULES[:4])
    assert all(float((first - other).abs().max()) > 0.01 for other in others)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda p: type(p).__name__)
def test_ddpm_step_is_a_double_ddim_stride_and_fresh_noise(path):
    """In x/β with σ = α/β: DDIM to σ'' = σ'²/σ, then noise of variance σ'²(1 − σ'²/σ²)."""
    dynamics, (x, noise) = moving(path), points(9)
    for before, after in ((3.0, 2.0), (1.0, 0.9), (0.5, 0.1)):
        t, s, far = (at_ratio(path, r) for r in (before, after, after**2 / before))
        stride = DDIM().step(dynamics, x, t, far, None, False) / weights(path, far)[1]
        expected = stride + after * math.sqrt(1 - (after / before) ** 2) * noise
        close(Ancestral().step(dynamics, x, t, s, noise, False) / weights(path, s)[1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda p: type(p).__name__)
def test_churn_keeps_the_marginal(path):
    """Back in time and on by nothing: x_u has the moments of p_u, where α/β is (1 + churn) times as large."""

    class Back(Churn):
        def step(self, dynamics, x, t, s, noise, last):
            return super().step(dynamics, x, t, self.back(dynamics.field.path, t) + 1e-9, noise, last)

    solver, dynamics, t = Back(0.3), moving(path, kind="gaussian"), at_ratio(path, 0.8)
    u = solver.back(path, t)
    assert weights(path, u)[0] / weights(path, u)[1] == pytest.approx(1.3 * 0.8, abs=1e-10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowport.sampling.solver.churn.require_forward", lambda *_: None)
        m, n, c = affine(solver, dynamics, 2, t, 1.0, False)
    mean, covariance = moments(FROM_NOISE["gaussian"], path, t)
    wanted = moments(FROM_NOISE["gaussian"], path, u)
    close(m @ mean + c, wanted[0], rtol=0, atol=1e-6)
    close(m @ covariance @ m.T + n @ n.T, wanted[1], rtol=0, atol=1e-6)
    assert solver.back(path, path.interval[0]) == path.interval[0]


def test_churn_on_the_exploding_path_is_algorithm_2_of_edm():
    """Karras et al. (2022), written in x and σ = scale (1 − t) alone."""
    path, churn, inflation = VarianceExplodingPath(10.0), 0.25, 1.007
    dynamics = moving(path, TargetPrediction())

    def denoised(x, sigma):
        return dynamics.field(x, torch.full((len(x),), 1 - sigma / 10, dtype=x.dtype), Condition())

    x, again, sigmas = points(9)[0] * 6, seeded(), [6.0, 4.0, 2.5, 1.0, 0.3, 0.05, 0.0]
    times = torch.tensor([1 - sigma / 10 for sigma in sigmas], dtype=torch.float64)
    found = Churn(churn, inflation).solve(dynamics, x, times, seeded()).end
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        noise = torch.randn(x.shape, generator=again, dtype=x.dtype)
        high = sigma * (1 + churn)
        x = x + math.sqrt(high**2 - sigma**2) * inflation * noise
        slope = (x - denoised(x, high)) / high
        euler = x + (after - high) * slope
        x = euler if after == 0 else x + (after - high) / 2 * (slope + (euler - denoised(euler, after)) / after)
    close(found, x, rtol=0, atol=1e-9)


def test_churn_has_order_two_in_its_moments_and_none_is_heun():
    c, errors = dict(SCORED)["trigonometric-SourceIsNoise-velocity"], []
    joint = c.joint("gaussian")
    for steps in (20, 40):
        times = 0.2 + 0.6 * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 1.2
        start = Moments.start(*moments(joint, c.path, 0.2))
        end = push(Churn(0.4 * 20 / steps), c.field(joint), ZeroVolatility(), times, start, last=False)[-1]
        errors.append(end.distance(*moments(joint, c.path, 0.8)))
    assert 1.7 < math.log2(errors[0] / errors[1]) < 2.6 and errors[1] < 1e-2, errors
    x, noise = points(5)
    close(
        Churn(0.0).step(moving(LinearPath()), x, 0.3, 0.4, noise, False),
        Heun().step(moving(LinearPath()), x, 0.3, 0.4, None, False),
    )


def test_the_mean_end_is_tweedie_and_all_before_is_the_solver():
    """E[x1 | x_t] = (x + α² ∇ log p_t)/β."""
    path, inner = TrigonometricPath(), EulerMaruyama(noiseless_end=False)
    dynamics, (x, _) = moving(path), points(9)
    dynamics.volatility, dynamics.stochastic = ConstantVolatility(), True
    found = MeanEnd(inner).solve(dynamics, x, 0.05 + 0.9 * TIMES, seeded(), all_states=True).states
    plain = inner.solve(dynamics, x, 0.05 + 0.9 * TIMES, seeded(), all_states=True).states
    assert torch.equal(found[:-1], plain[:-1])
    t = (0.05 + 0.9 * TIMES)[-2].expand(9)
    c = path.coefficients(t).over(x)
    close(found[-1], (found[-2] + c.alpha**2 * dynamics.field.score(found[-2], t, Condition())) / c.beta)
    through = [
        s.solve(moving(path), x, TIMES, seeded(), all_states=True).states[-2]
        for s in (MeanEnd(DPMSolver()), DPMSolver())
    ]
    assert torch.equal(*through), "a solver inside keeps its memory"


SAMPLERS = [
    (Euler(), ZeroVolatility()),
    (Heun(), ZeroVolatility()),
    (DDIM(), ZeroVolatility()),
    (DPMSolver(), ZeroVolatility()),
    (Ancestral(), ZeroVolatility()),
    (Churn(), ZeroVolatility()),
    (EulerMaruyama(), ConstantVolatility(0.8)),
    (EulerMaruyama(), SineVolatility()),
    (StochasticHeun(), MemorylessVolatility()),
    (MeanEnd(EulerMaruyama(noiseless_end=False)), MemorylessVolatility()),
]


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=["linear", "trigonometric"])
@pytest.mark.parametrize(
    ("solver", "volatility"), SAMPLERS, ids=[f"{type(a).__name__}-{type(b).__name__}" for a, b in SAMPLERS]
)
def test_every_sampler_reaches_the_same_moments(solver, volatility, path):
    """Those of the target, by exact recursion from t = 0 to 1, ever nearer with more steps."""
    c = Composition(path, SourceIsNoise(), VelocityPrediction())
    joint, errors = c.joint("gaussian"), []
    for steps in (12, 48):
        end = reached(solver, c.field(joint), volatility, UniformGrid(steps).times(path), joint.m0[0], joint.s0[0])
        errors.append(Moments(*end, end[1]).distance(joint.m1[0], joint.s1[0]))
    assert errors[1] < 0.1 and errors[1] < 0.5 * errors[0], errors


def test_what_a_solver_cannot_serve_is_refused_by_name():
    x = Sample(points(3)[0])
    blind = Composition(SmoothBridge(), UnconditionedBridge(), VelocityPrediction()).field(COUPLED["gaussian"])
    heads = Composition(SmoothBridge(), UnconditionedBridge(), BridgePrediction()).field(COUPLED["gaussian"])
    plain = Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(COUPLED["gaussian"])
    for solver, field, says in (
        (DDIM(), blind, "solver=ddim needs a score"),
        (DPMSolver(), heads, "without noise of its own: use solver=ddim"),
        (Churn(), heads, "use solver=ancestral"),
        (Churn(), plain, "solver=churn needs a score"),
        (MeanEnd(Heun()), blind, "solver=mean_end needs a score"),
    ):
        with pytest.raises(FlowportError, match=says):
            Translator(field, solver, UniformGrid(3), ZeroVolatility())
    for solver, name in ((DPMSolver(), "dpm_solver"), (Churn(), "churn"), (MeanEnd(Heun()), "mean_end")):
        field = moving(LinearPath()).field
        with pytest.raises(FlowportError, match=f"solver={name} runs from source to target only"):
            Translator(field, solver, UniformGrid(3), ZeroVolatility()).backward(x, seeded())
    for wrong in ({"churn": -0.1}, {"inflation": 0.0}):
        with pytest.raises(FlowportError, match="churn ≥ 0 and inflation > 0"):
            Churn(**wrong)


ENDS = [(name, c) for name, c in COMPOSITIONS if isinstance(c.prediction, (BridgePrediction, TargetPrediction))]


class Half(torch.nn.Module):
    """A network of bfloat16 weights that knows the exact answer, as far as its digits reach."""

    def __init__(self, oracle):
        super().__init__()
        self.weight, self.oracle = torch.nn.Parameter(torch.ones((), dtype=torch.bfloat16)), [oracle]

    def forward(self, x, t, condition):
        assert x.dtype == torch.bfloat16 and t.dtype == torch.float32
        start = None if condition.source is None else condition.source.float()
        return self.weight * self.oracle[0](x.float(), t, Condition(source=start)).bfloat16()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", **named(SOLVERS))
def test_samples_are_finite_on_grids_that_touch_both_ends(make, precision):
    """For every path and role; a solver either says by name that it cannot serve, or gives finite points."""
    served, (_, x0) = 0, points(6)
    for _, c in ENDS:
        solver = Dopri5(0.01, 0.01) if make is Dopri5 else make()  # half precision is no smooth field
        oracle = c.field(JointMixture(*(v.float() for v in vars(c.joint("mixture")).values())))
        field = oracle
        if precision == "bfloat16":
            field = LearnedField(Half(oracle), c.path, c.prediction, oracle.conditioning, oracle.capabilities)
        volatility = ConstantVolatility() if solver.stochastic and not solver.needs_score else ZeroVolatility()
        try:
            translator = Translator(field, solver, UniformGrid(2), volatility)
        except FlowportError:
            continue
        end = translator.forward(Sample(x0.float()), seeded()).end
        served += 1
        assert end.dtype == torch.float32 and end.isfinite().all() and float(end.abs().max()) < 1e3, c
    assert served == 0 if isinstance(solver, ShortcutSolver) else served >= 8, (
        "a shortcut is learnt: an oracle has none"
    )
