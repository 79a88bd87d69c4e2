"""What a volatility forgets: the memoryless one all of the start, and its drift on a bridge."""

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise
from flowport.errors import FlowportError
from flowport.path import BrownianBridge, LinearPath, PolynomialPath, SmoothBridge, TrigonometricPath
from flowport.prediction import TargetPrediction, VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import EulerMaruyama
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, ZeroVolatility
from tests.laws.oracles import COMPOSITIONS, Composition, compositions, moments, points, tensor
from tests.laws.recursion import Moments, push
from tests.zoo import VOLATILITIES, named

T = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
close = torch.testing.assert_close


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), PolynomialPath()])
def test_memoryless_sde_forgets_its_start_and_others_do_not(path):
    c = Composition(path, SourceIsNoise(), VelocityPrediction())
    joint = c.joint("gaussian")
    start = Moments.start(joint.m0[0], joint.s0[0])
    left = {}
    for name, volatility in (
        ("memoryless", MemorylessVolatility()),
        ("constant", ConstantVolatility(0.4)),
        ("zero", ZeroVolatility()),
    ):
        end = push(EulerMaruyama(noiseless_end=False), c.field(joint), volatility, UniformGrid(80).times(path), start)[
            -1
        ]
        left[name] = float(end.correlation(start).abs().max())
    assert left["memoryless"] < 0.02
    assert left["constant"] > 0.5 and left["zero"] > 0.9


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), PolynomialPath(1.5, 3)])
def test_memoryless_drift_is_twice_the_velocity_minus_the_linear_part(path):
    """v + g²/2 · s = 2v − (β̇/β) x where the source is the noise."""
    c = Composition(path, SourceIsNoise(), VelocityPrediction())
    x, _ = points(len(T))
    dynamics = Dynamics(c.field(c.joint("mixture")), c.condition(x), MemorylessVolatility())
    k = path.coefficients(T).over(x)
    close(dynamics.drift(x, T), 2 * dynamics.velocity(x, T) - k.dbeta / k.beta * x)


def test_memoryless_volatility_of_the_straight_path():
    """g² = 2 (1 − t)/t."""
    close(MemorylessVolatility()(T, LinearPath(), SourceIsNoise()) ** 2, 2 * (1 - T) / T)


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_memoryless_volatility_of_a_brownian_bridge_is_its_noise(noise):
    g = MemorylessVolatility()(
        torch.linspace(0, 1, 21, dtype=torch.float64), BrownianBridge(noise), ConditionedBridge()
    )
    close(g, torch.full_like(g, noise))


@pytest.mark.parametrize("prediction", [VelocityPrediction(), TargetPrediction()])
def test_memoryless_drift_of_a_brownian_bridge_is_the_pull_to_its_target(prediction):
    c = Composition(BrownianBridge(0.7), ConditionedBridge(), prediction)
    x, x0 = points(len(T))
    dynamics = Dynamics(c.field(c.joint("mixture")), c.condition(x0), MemorylessVolatility())
    pull = (dynamics.endpoints(x, T)[1] - x) / (1 - T)[:, None]
    close(dynamics.drift(x, T), pull, rtol=1e-9, atol=1e-9)


def test_memoryless_drift_of_any_bridge_given_its_start():
    """THEORY 4.2: b = 2v − ℓ, ℓ = α̇ x0 + (β̇/β)(x − α x0)."""
    path = SmoothBridge(0.9)
    c = Composition(path, ConditionedBridge(), VelocityPrediction())
    x, x0 = points(len(T))
    k = path.coefficients(T).over(x)
    dynamics = Dynamics(c.field(c.joint("mixture")), c.condition(x0), MemorylessVolatility())
    line = k.dalpha * x0 + k.dbeta / k.beta * (x - k.alpha * x0)
    close(dynamics.drift(x, T), 2 * dynamics.velocity(x, T) - line, rtol=1e-9, atol=1e-9)


def test_bridge_given_its_start_reaches_the_conditional_target():
    """X_1 given x0 has the mean m1 + Cᵀ S0⁻¹ (x0 − m0) and covariance S1 − Cᵀ S0⁻¹ C, from a start without spread."""
    c = Composition(BrownianBridge(0.8), ConditionedBridge(), VelocityPrediction())
    joint, x0 = c.joint("gaussian"), tensor(0.8, -0.3)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    times = UniformGrid(150).times(c.path)
    end = push(EulerMaruyama(), c.field(joint), MemorylessVolatility(), times, Moments(x0, zero, zero), x0)[-1]
    gain = joint.cross[0].T @ torch.linalg.inv(joint.s0[0])
    mean = joint.m1[0] + gain @ (x0 - joint.m0[0])
    assert end.distance(mean, joint.s1[0] - gain @ joint.cross[0]) < 0.02


def test_memoryless_is_refused_without_noise():
    with pytest.raises(FlowportError, match="no score"):
        MemorylessVolatility()(T, LinearPath(), NoNoise())


STRANGE = [(name, c) for name, c in COMPOSITIONS if not isinstance(c.role, NoNoise)]


@pytest.mark.parametrize("make", **named(VOLATILITIES))
@pytest.mark.parametrize("c", **compositions(STRANGE[::4]))
def test_volatility_is_finite_and_not_negative_on_all_of_the_unit_interval(c, make):
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([0, 1e-6, 0.3, 0.5, 1 - 1e-6, 1], dtype=dtype)
        g = make()(t, c.path, c.role)
        assert g.shape == t.shape and g.dtype == dtype and bool(g.isfinite().all()) and bool((g >= 0).all())
        assert bool((g > 0).any()) == make.stochastic


def test_volatility_cannot_serve_a_field_without_a_score():
    field = Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(
        Composition(LinearPath(), NoNoise(), VelocityPrediction()).joint("gaussian")
    )
    assert moments(field.joint, field.path, 0.0)[0].tolist() == pytest.approx(field.joint.m0[0].tolist())
    with pytest.raises(FlowportError, match="volatility=constant needs a score"):
        Dynamics(field, Composition(LinearPath(), NoNoise(), VelocityPrediction()).condition(T), ConstantVolatility())
