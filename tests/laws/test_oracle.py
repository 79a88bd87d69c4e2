"""The exact field itself, proved against integrals on a grid and by the equation that a flow must satisfy."""

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise, UnconditionedBridge
from flowport.field.analytic import JointMixture
from flowport.path import BrownianBridge, FunctionsPath, LinearPath, SmoothBridge, TrigonometricPath
from flowport.prediction import BridgePrediction, VelocityPrediction
from tests.laws.oracles import Composition, line, points, tensor, truth

BENT = line([(0.4, -1.0, 1.5, 0.5, 0.3, 0.2), (0.6, 0.8, -0.7, 0.3, 0.6, -0.25)])
FREE = line([(0.3, 0, 2.0, 1, 0.2, 0), (0.7, 0, -1.0, 1, 0.5, 0)])
AXIS = torch.linspace(-9, 9, 1801, dtype=torch.float64)
X = torch.linspace(-2, 2, 9, dtype=torch.float64)
close = torch.testing.assert_close


def density(joint, x0, x1):
    """p(x0, x1) of one-dimensional ends, written out."""
    total = 0
    for k, log_weight in enumerate(joint.log_weights):
        a, b, c = joint.s0[k, 0, 0], joint.s1[k, 0, 0], joint.cross[k, 0, 0]
        u, v, det = x0 - joint.m0[k, 0], x1 - joint.m1[k, 0], a * b - c * c
        total = total + log_weight.exp() / det.sqrt() * torch.exp(-0.5 * (b * u * u - 2 * c * u * v + a * v * v) / det)
    return total


def velocity_field(path, joint, role):
    return Composition(path, role, VelocityPrediction()).field(joint)


@pytest.mark.parametrize(("joint", "role"), [(BENT, NoNoise()), (FREE, SourceIsNoise())])
@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), FunctionsPath(lambda t: 1 - t**2, torch.sin)])
def test_velocity_without_noise_is_the_posterior_mean_on_a_grid(path, joint, role):
    """Given x_t = x the ends lie on the line α x0 + β x1 = x."""
    field = velocity_field(path, joint, role)
    for t in (0.2, 0.5, 0.9):
        c = path.coefficients(tensor(t))
        x1 = (X[:, None] - c.alpha * AXIS) / c.beta
        weight = density(joint, AXIS, x1)
        v = ((c.dalpha * AXIS + c.dbeta * x1) * weight).sum(1) / weight.sum(1)
        close(field.velocity(X[:, None], tensor(t).expand(9), Composition.condition(_any(role), X))[:, 0], v)


def _any(role):
    return Composition(LinearPath(), role, VelocityPrediction())


@pytest.mark.parametrize("path", [BrownianBridge(0.6), SmoothBridge(1.5), LinearPath(0.5)])
def test_velocity_and_noise_of_a_bridge_are_posterior_means_on_a_grid(path):
    field = Composition(path, UnconditionedBridge(), BridgePrediction()).field(BENT)
    coarse = AXIS[::3]
    x0, x1 = coarse[:, None], coarse[None]
    prior = density(BENT, x0, x1)
    for t in (0.3, 0.6):
        c = path.coefficients(tensor(t))
        time = tensor(t).expand(9)
        z = (X[:, None, None] - c.alpha * x0 - c.beta * x1) / c.gamma
        weight = prior * torch.exp(-0.5 * z * z)
        mass = weight.sum((1, 2))
        v = ((c.dalpha * x0 + c.dbeta * x1 + c.dgamma * z) * weight).sum((1, 2)) / mass
        out = field(X[:, None], time, Composition(path, UnconditionedBridge(), BridgePrediction()).condition(X))
        close(out[:, 0], v, rtol=1e-6, atol=1e-6)
        close(out[:, 1], (z * weight).sum((1, 2)) / mass, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", [BrownianBridge(0.6), SmoothBridge(1.5), LinearPath(0.5)])
def test_field_that_sees_its_start_is_the_posterior_mean_given_it(path):
    c = Composition(path, ConditionedBridge(), BridgePrediction())
    field, start = c.field(BENT), tensor(-1.2, 0.0, 0.7).repeat(3)
    x1 = AXIS[None]
    for t in (0.3, 0.6):
        k, time = path.coefficients(tensor(t)), tensor(t).expand(9)
        z = (X[:, None] - k.alpha * start[:, None] - k.beta * x1) / k.gamma
        weight = density(BENT, start[:, None], x1) * torch.exp(-0.5 * z * z)
        v = ((k.dalpha * start[:, None] + k.dbeta * x1 + k.dgamma * z) * weight).sum(1) / weight.sum(1)
        out = field(X[:, None], time, c.condition(start[:, None]))
        close(out[:, 0], v, rtol=1e-7, atol=1e-7)
        close(out[:, 1], (z * weight).sum(1) / weight.sum(1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("path", "role", "joint"),
    [
        (LinearPath(), NoNoise(), BENT),
        (TrigonometricPath(), SourceIsNoise(), FREE),
        (BrownianBridge(), UnconditionedBridge(), BENT),
    ],
)
def test_continuity_equation(path, role, joint):
    """∂ₜ log p + v ∂ₓ log p + ∂ₓ v = 0, with p_t written out and differences in t and x."""

    def log_p(t, x):
        c = path.coefficients(tensor(t))
        g = 0 if c.gamma is None else c.gamma
        m = c.alpha * joint.m0[:, 0] + c.beta * joint.m1[:, 0]
        s = (c.alpha**2 * joint.s0 + c.beta**2 * joint.s1 + 2 * c.alpha * c.beta * joint.cross)[:, 0, 0] + g**2
        return (joint.log_weights - 0.5 * s.log() - 0.5 * (x[:, None] - m) ** 2 / s).logsumexp(1)

    field, h = velocity_field(path, joint, role), 1e-4
    for t in (0.3, 0.7):

        def v(x, t=t):
            return field.velocity(x[:, None], tensor(t).expand(9), _any(role).condition(x))[:, 0]

        rate = (log_p(t + h, X) - log_p(t - h, X)) / (2 * h)
        slope = (log_p(t, X + h) - log_p(t, X - h)) / (2 * h)
        close(rate, -v(X) * slope - (v(X + h) - v(X - h)) / (2 * h), rtol=1e-5, atol=1e-5)


def test_product_of_mixtures_is_every_pair_of_components():
    w0, w1 = tensor(0.25, 0.75), tensor(0.5, 0.2, 0.3)
    m0, m1 = points(2)[0], points(3, seed=1)[0]
    s0 = torch.eye(2, dtype=torch.float64) * tensor(0.5, 1.5)[:, None, None]
    s1 = torch.eye(2, dtype=torch.float64) * tensor(0.2, 0.4, 0.9)[:, None, None]
    joint = JointMixture.product(w0, m0, s0, w1, m1, s1)
    assert joint.log_weights.exp().tolist() == pytest.approx([a * b for a in w0.tolist() for b in w1.tolist()])
    x, _ = points(4, seed=2)
    field = Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(joint)
    found = field.velocity(
        x, tensor(0.4).expand(4), Composition(LinearPath(), NoNoise(), VelocityPrediction()).condition(x)
    )
    close(found, truth(joint, LinearPath(), 0.4, x, None)["velocity"])
    assert torch.equal(joint.m0[4], m0[1]) and torch.equal(joint.m1[4], m1[1]) and torch.equal(joint.s1[5], s1[2])
