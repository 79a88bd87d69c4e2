"""There and back again."""

import math

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise
from flowport.errors import FlowportError
from flowport.field import AnalyticField, Field
from flowport.path import LinearPath, SmoothBridge, TrigonometricPath, VarianceExplodingPath
from flowport.prediction import VelocityPrediction
from flowport.sampling.grid import PowerGrid, UniformGrid
from flowport.sampling.solver import DDIM, RK4, Ancestral, Euler, EulerMaruyama, Heun, Midpoint, StochasticHeun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ConstantVolatility, SineVolatility, ZeroVolatility
from flowport.types import Condition, Sample
from tests.laws.oracles import COUPLED, Composition, line, moments, points
from tests.laws.recursion import Moments, push

BENT = line([(0.4, -1.0, 1.5, 0.5, 0.3, 0.2), (0.6, 0.8, -0.7, 0.3, 0.6, -0.25)])
START = torch.linspace(-2, 2, 15, dtype=torch.float64)[:, None]


def generator():
    return torch.Generator().manual_seed(0)


def bent(path) -> AnalyticField:
    return Composition(path, NoNoise(), VelocityPrediction()).field(BENT)


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), Heun(), RK4()])
def test_cycle_returns_with_the_order_of_the_solver(solver):
    errors = []
    for steps in (15, 30):
        translator = Translator(bent(TrigonometricPath()), solver, PowerGrid(steps, 1.3), ZeroVolatility())
        back = translator.cycle(Sample(START), generator())
        errors.append(float((back.end - START).square().mean().sqrt()))
        assert back.nfe == 2 * steps * {1: 1, 2: 2, 4: 4}[solver.order]
    assert math.log(errors[0] / errors[1], 2) > solver.order - 0.4, errors
    assert errors[1] < {1: 0.2, 2: 0.02, 4: 1e-3}[solver.order]


def test_cycle_goes_through_the_target():
    """Otherwise a translator that stands still would pass."""
    translator = Translator(bent(LinearPath()), RK4(), UniformGrid(30), ZeroVolatility())
    there = translator.forward(Sample(START), generator())
    assert float((there.end - START).abs().max()) > 0.5
    back = translator.backward(Sample(there.end), generator(), all_states=True)
    assert torch.equal(back.times, UniformGrid(30).times(LinearPath()).flip(0))
    torch.testing.assert_close(back.end, START, atol=1e-4, rtol=0)
    torch.testing.assert_close(back.states[0], there.end)


@pytest.mark.parametrize("volatility", [ConstantVolatility(0.7), SineVolatility()])
@pytest.mark.parametrize("solver", [EulerMaruyama(), StochasticHeun()])
def test_sde_backwards_ends_with_the_moments_of_the_source(solver, volatility):
    c = Composition(TrigonometricPath(), SourceIsNoise(), VelocityPrediction())
    pairing = c.joint("gaussian")
    times = UniformGrid(80).times(c.path).flip(0)
    end = push(solver, c.field(pairing), volatility, times, Moments.start(*moments(pairing, c.path, 1.0)))[-1]
    assert end.distance(pairing.m0[0], pairing.s0[0]) < 0.04


def test_chunks_do_not_change_an_ode():
    source = Sample(START)
    whole = Translator(bent(LinearPath()), Heun(), UniformGrid(5), ZeroVolatility()).forward(
        source, generator(), all_states=True
    )
    parts = Translator(bent(LinearPath()), Heun(), UniformGrid(5), ZeroVolatility(), chunk=4).forward(
        source, generator(), all_states=True
    )
    torch.testing.assert_close(whole.states, parts.states)
    assert whole.nfe == parts.nfe == 10


def test_conditions_follow_their_rows_through_chunks():
    """A field that sees its start must see the start of each row, whatever the chunk."""
    x0, _ = points(7)
    c = Composition(SmoothBridge(), ConditionedBridge(), VelocityPrediction())
    field = c.field(COUPLED["gaussian"])
    ends = [
        Translator(field, EulerMaruyama(), UniformGrid(1), ConstantVolatility(), chunk=chunk)
        .forward(Sample(x0), generator())
        .end
        for chunk in (7, 2)
    ]
    torch.testing.assert_close(*ends)


def test_translator_starts_from_the_declared_start_law():
    c = Composition(VarianceExplodingPath(20.0), SourceIsNoise(), VelocityPrediction())
    translator = Translator(c.field(c.joint("gaussian")), Euler(), UniformGrid(3), ZeroVolatility())
    x0, _ = points(4)
    torch.testing.assert_close(translator.forward(Sample(x0), generator(), all_states=True).states[0], 20 * x0)
    noisy = Composition(LinearPath(noise=0.5), ConditionedBridge(), VelocityPrediction())
    start = Translator(noisy.field(COUPLED["gaussian"]), Euler(), UniformGrid(3), ZeroVolatility())
    found = start.forward(Sample(x0), generator(), all_states=True).states[0]
    z = torch.randn(x0.shape, generator=generator(), dtype=x0.dtype)
    torch.testing.assert_close(found, x0 + 0.5 * z)


def test_translator_restores_the_mode_of_its_field_and_keeps_no_graph():
    field = bent(LinearPath()).train()
    translator = Translator(field, Euler(), UniformGrid(2), ZeroVolatility())
    out = translator.forward(Sample(START.clone().requires_grad_()), generator())
    assert field.training and not out.end.requires_grad
    field.eval()
    translator.forward(Sample(START), generator())
    assert not field.training


def test_a_field_that_sees_its_start_cannot_run_backwards():
    c = Composition(SmoothBridge(), ConditionedBridge(), VelocityPrediction())
    with pytest.raises(FlowportError, match="gives one translation for each start, the mean"):
        Translator(c.field(COUPLED["gaussian"]), Heun(), UniformGrid(3), ZeroVolatility())
    translator = Translator(c.field(COUPLED["gaussian"]), Ancestral(), UniformGrid(3), ZeroVolatility())
    with pytest.raises(FlowportError, match="direction=backward is impossible"):
        translator.backward(Sample(points(3)[0]), generator())
    with pytest.raises(FlowportError, match="solver=ancestral draws its own noise"):
        Translator(c.field(COUPLED["gaussian"]), Ancestral(), UniformGrid(3), ConstantVolatility())


@pytest.mark.parametrize(
    ("solver", "volatility", "says"),
    [
        (EulerMaruyama(), ConstantVolatility(), "volatility=constant needs a score"),
        (Ancestral(), ZeroVolatility(), "solver=ancestral needs a score"),
    ],
)
def test_translator_refuses_a_sampler_that_the_field_cannot_serve(solver, volatility, says):
    with pytest.raises(FlowportError, match=says):
        Translator(bent(LinearPath()), solver, UniformGrid(), volatility)


@pytest.mark.parametrize("solver", [Euler(), RK4()])
def test_translator_refuses_an_ode_solver_for_an_sde(solver):
    c = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction())
    with pytest.raises(FlowportError, match="cannot serve a volatility above zero"):
        Translator(c.field(c.joint("gaussian")), solver, UniformGrid(), ConstantVolatility())


@pytest.mark.parametrize(
    ("solver", "volatility"),
    [(Heun(), ZeroVolatility()), (EulerMaruyama(), ConstantVolatility(0.7)), (StochasticHeun(), SineVolatility())],
)
def test_padding_stays_as_it_came(solver, volatility):
    """Through every state, though the path starts beside its source; rows without padding move as ever."""
    c = Composition(VarianceExplodingPath(), SourceIsNoise(), VelocityPrediction())
    field = c.field(c.joint("gaussian"))
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.ones(40, 2, dtype=torch.bool)
    mask[::2, 1] = False
    translator = Translator(field, solver, UniformGrid(8), volatility, chunk=7)
    held = translator.forward(Sample(x, mask=mask), generator(), all_states=True)
    free = translator.forward(Sample(x), generator(), all_states=True)
    assert torch.equal(held.states[:, ~mask], x[~mask].expand(9, -1))
    assert bool((free.end[~mask] != x[~mask]).all()) and bool((held.end[mask] != x[mask]).all())
    assert torch.equal(held.states[:, mask.all(1)], free.states[:, mask.all(1)])
    back = translator.backward(Sample(x, mask=mask), generator()).end
    round_trip = translator.cycle(Sample(x, mask=mask), generator()).end
    assert torch.equal(back[~mask], x[~mask]) and torch.equal(round_trip[~mask], x[~mask])


def between(field, x, t, condition):
    """The way between the end points: the slope of a DDIM step on the straight path."""
    source, target, _ = field.endpoints(x, t, condition)
    return target - source


@pytest.mark.parametrize(
    ("path", "solver", "slope"), [(TrigonometricPath(), Euler(), Field.velocity), (LinearPath(), DDIM(), between)]
)
def test_a_field_sees_padding_where_it_came(path, solver, slope):
    """The rest obeys the field's own equation with the padding at its place: steps written out."""
    field = Composition(path, NoNoise(), VelocityPrediction()).field(COUPLED["gaussian"])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([[True, False]]).expand(5, 2)
    found = Translator(field, solver, UniformGrid(6), ZeroVolatility()).forward(Sample(x, mask=mask), generator()).end
    times, now = UniformGrid(6).times(field.path).double(), x.clone()
    for t, after in zip(times[:-1], times[1:], strict=True):
        step = slope(field, now, t.expand(5), Condition())
        now[:, 0] += (after - t) * step[:, 0]
    torch.testing.assert_close(found, now)
