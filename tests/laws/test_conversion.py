"""Every prediction maps to the hub and back; end points, velocity, noise and score are those of the law."""

from itertools import product

import pytest
import torch

from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.prediction import (
    BridgePrediction,
    EDMPrediction,
    FlowState,
    ScorePrediction,
    SourcePrediction,
    TargetPrediction,
    VelocityPrediction,
    VPrediction,
)
from flowport.tensors import over
from tests.laws.oracles import (
    COMPOSITIONS,
    SCORED,
    Composition,
    UnconditionedBridge,
    compositions,
    points,
    tensor,
    truth,
)
from tests.zoo import PREDICTIONS, named

TIMES = [0.05, 0.4, 0.92]
close = torch.testing.assert_close


def ask(c, kind, t):
    """Field, points, times, condition and the truth."""
    x, x0 = points(6)
    joint = c.joint(kind)
    true = truth(joint, c.path, t, x, x0 if c.sees_source else None)
    return c.field(joint), x, tensor(t).expand(6), c.condition(x0), true


@pytest.mark.parametrize("c", **compositions())
def test_velocity_end_points_and_noise_are_conditional_means(c):
    for t in TIMES:
        field, x, time, condition, true = ask(c, "mixture", t)
        close(field.velocity(x, time, condition), true["velocity"], rtol=1e-9, atol=1e-9)
        if c.path.bridge and not field.capabilities.score:
            with pytest.raises(FlowportError, match="second head"):
                field.endpoints(x, time, condition)
            continue
        source, target, noise = field.endpoints(x, time, condition)
        close(source, true["x0"], rtol=1e-9, atol=1e-9)
        close(target, true["x1"], rtol=1e-9, atol=1e-9)
        assert (noise is None) == (not c.path.bridge)
        if noise is not None:
            close(noise, true["z"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", **compositions())
def test_end_points_satisfy_both_equations_of_the_path(c):
    if c.path.bridge and not c.role.scored(c.prediction):
        pytest.skip("one head on a blind bridge has no end points, as tested above")
    for t in TIMES:
        field, x, time, condition, _ = ask(c, "mixture", t)
        k = c.path.coefficients(time).over(x)
        source, target, noise = field.endpoints(x, time, condition)
        position, velocity = k.alpha * source + k.beta * target, k.dalpha * source + k.dbeta * target
        if noise is not None:
            position, velocity = position + k.gamma * noise, velocity + k.dgamma * noise
        close(position, x, rtol=1e-9, atol=1e-9)
        close(velocity, field.velocity(x, time, condition), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", **compositions())
def test_hub_to_output_to_hub_is_the_identity(c):
    """Any consistent hub, not only a true one; where the algebra has no noise the hub has none."""
    generator = torch.Generator().manual_seed(3)
    for t in TIMES:
        x, velocity, noise, x0 = torch.randn(4, 6, 2, dtype=torch.float64, generator=generator)
        time, start = tensor(t).expand(6), x0 if c.sees_source else None
        k = c.path.coefficients(time)
        free = FlowState(x, velocity, noise if isinstance(c.prediction, BridgePrediction) else None)
        flow_state = c.prediction.flow_state(c.prediction.output(free, k, start), x, k, start)
        close(flow_state.x, x)
        close(flow_state.velocity, velocity, rtol=1e-9, atol=1e-9)
        if free.noise is not None:
            close(flow_state.noise, noise, rtol=1e-9, atol=1e-9)
        elif c.sees_source:
            # ẑ and x̂1 follow from x and v: α x0 + β x̂1 + γ ẑ = x and α̇ x0 + β̇ x̂1 + γ̇ ẑ = v.
            m = k.over(x)
            system = torch.stack([torch.stack([m.beta, m.gamma], -1), torch.stack([m.dbeta, m.dgamma], -1)], -2)
            right = torch.stack([x - m.alpha * x0, velocity - m.dalpha * x0], -1)
            close(flow_state.noise, torch.linalg.solve(system.expand(6, 2, 2, 2), right)[..., 1], rtol=1e-8, atol=1e-8)
        else:
            assert flow_state.noise is None


@pytest.mark.parametrize("c", **compositions(SCORED))
def test_score_is_the_gradient_of_the_log_density(c):
    for t in TIMES:
        field, x, time, condition, true = ask(c, "mixture", t)
        velocity, score = field.velocity_and_score(x, time, condition)
        close(score, true["score"], rtol=1e-8, atol=1e-8)
        close(field.score(x, time, condition), score)
        close(velocity, true["velocity"], rtol=1e-8, atol=1e-8)


ROLES = {(name.rsplit("-", 1)[0]): c for name, c in COMPOSITIONS}


@pytest.mark.parametrize("own", **named(PREDICTIONS))
@pytest.mark.parametrize("c", list(ROLES.values()), ids=list(ROLES))
def test_any_prediction_becomes_any_other_or_is_refused(c, own):
    """From what a perfect network of one prediction returns to what one of another would, on every path."""
    x, x0 = points(6)
    joint, conditioned, start = c.joint("mixture"), c.condition(x0), x0 if c.sees_source else None
    if refused(c, own()):
        return
    given = Composition(c.path, c.role, own()).field(joint)
    for (_, make), t in product(PREDICTIONS, TIMES):
        other, time = make(), tensor(t).expand(6)
        if refused(c, other):
            continue
        k = c.path.coefficients(time)
        flow_state = own().flow_state(given(x, time, conditioned), x, k, start)
        if (
            isinstance(c.role, UnconditionedBridge)
            and isinstance(other, BridgePrediction)
            and not isinstance(own(), BridgePrediction)
        ):
            with pytest.raises(FlowportError, match="second head"):
                other.output(flow_state, k, start)
            continue
        wanted = Composition(c.path, c.role, other).field(joint)(x, time, conditioned)
        scale = 1 + float(wanted.abs().max())
        close(other.output(flow_state, k, start) / scale, wanted / scale, rtol=0, atol=1e-9)


def refused(c, prediction):
    try:
        c.role.accept(prediction)
    except FlowportError:
        return True
    return False


UNSCORED = [(name, c) for name, c in COMPOSITIONS if (name, c) not in SCORED]


@pytest.mark.parametrize("c", **compositions(UNSCORED))
def test_a_field_without_a_score_refuses_it(c):
    field, x, time, condition, _ = ask(c, "gaussian", 0.5)
    with pytest.raises(FlowportError, match="score"):
        field.score(x, time, condition)


@pytest.mark.parametrize("c", **compositions())
def test_output_of_the_oracle_is_what_the_network_regresses_on(c):
    """E[target(sample) | x_t], by linearity of every target in (x0, x1, z)."""
    for t in TIMES:
        field, x, time, condition, true = ask(c, "mixture", t)
        k = c.path.coefficients(time)
        weight = over(k.alpha if k.gamma is None else k.gamma, x)
        noise = true["x0"] if k.gamma is None else true["z"]
        # Karras et al. 2022, table 1, of y/β = x1 + ς ε: here d = 0.7 and the noise has the deviation 1.3
        beta, d = over(k.beta, x), 0.7
        level = weight * 1.3 / beta
        skip, size = d**2 / (level**2 + d**2), level / (level**2 + d**2).sqrt()  # c_out/d: F in units of the data
        expected = {
            VPrediction: beta * noise - weight * true["x1"],
            EDMPrediction: (true["x1"] - skip * (true["x1"] + weight / beta * noise)) / size,
            VelocityPrediction: true["velocity"],
            TargetPrediction: true["x1"],
            SourcePrediction: true["x0"],
            ScorePrediction: -noise / weight,
            BridgePrediction: torch.cat([true["velocity"], true["z"]], 1),
        }[type(c.prediction)]
        close(field(x, time, condition), expected, rtol=1e-8, atol=1e-8)


def test_points_of_any_event_shape_have_the_field_of_their_flat_twin():
    name, c = next(item for item in COMPOSITIONS if item[0] == "smooth_bridge-UnconditionedBridge-bridge")
    x, _ = points(5)
    field: AnalyticField = c.field(c.joint("mixture"))
    time = tensor(0.4).expand(5)
    flat = field(x, time, c.condition(x))
    shaped = field(x.view(5, 1, 1, 2), time, c.condition(x))
    close(shaped, torch.stack([flat[:, :2], flat[:, 2:]], 1)[:, :, None], rtol=1e-12, atol=1e-12)
