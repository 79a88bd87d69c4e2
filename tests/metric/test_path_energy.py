"""Path energy and straightness on the exact flow between two Gaussians of the line."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.metric import NormalisedPathEnergy, Straightness, TransportCost, path_energy, straightness, transport_cost
from flowport.metric.path_energy import time_weights
from tests.metric.outcomes import draw, outcome_of

F64 = torch.float64
MEAN, SPREAD = 1.0, 0.7  # N(0, 1) -> N(1, 0.7²): PE = 1.390443, W2² = 1.09, npe = 0.275635 (THEORY, section 7)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The independent linear flow: v = ṁ + v̇ar/(2 var) (x − m) with var = (1−t)² + 0.49 t²."""
    t = t[:, None]
    var, rate = (1 - t) ** 2 + (SPREAD * t) ** 2, -2 * (1 - t) + 2 * SPREAD**2 * t
    return MEAN + rate / (2 * var) * (x - MEAN * t)


def optimal(x: Tensor, t: Tensor) -> Tensor:
    """The optimal transport flow: deviation shrinks as 1 + (0.7 − 1)t."""
    t = t[:, None]
    return MEAN + (SPREAD - 1) / (1 + (SPREAD - 1) * t) * (x - MEAN * t)


def runge_kutta(field, x: Tensor, times: Tensor) -> Tensor:
    n, states = len(x), [x]
    for begin, end in pairwise(times):
        h, middle = end - begin, (begin + end) / 2
        a = field(x, begin.expand(n))
        b = field(x + h / 2 * a, middle.expand(n))
        c = field(x + h / 2 * b, middle.expand(n))
        x = x + h / 6 * (a + 2 * b + 2 * c + field(x + h * c, end.expand(n)))
        states.append(x)
    return torch.stack(states)


def start() -> Tensor:
    """30 points with mean 0 and mean square 1: every second moment of N(0, 1) along a linear flow is exact."""
    x = draw(30, 1, 0)
    x = x - x.mean()
    return x / x.square().mean().sqrt()


@pytest.mark.parametrize("steps", [100, 101])
def test_path_energy_of_the_independent_linear_flow(steps: int):
    times = torch.linspace(0, 1, steps + 1, dtype=F64)
    states = runge_kutta(velocity, start(), times)
    metric = NormalisedPathEnergy()
    metric.update(outcome_of(times=times, states=states, velocity=velocity, reference_cost=1.09))
    found = metric.compute()
    assert float(found["path_energy"]) == pytest.approx(1.390443, abs=1e-6)
    assert float(found["npe"]) == pytest.approx(0.275635, abs=1e-6)
    assert int(found["path_energy_n"]) == 30


def test_path_energy_of_the_optimal_flow_is_w2_squared():
    times = torch.linspace(0, 1, 21, dtype=F64)
    states = runge_kutta(optimal, start(), times)
    metric = NormalisedPathEnergy()
    metric.update(outcome_of(times=times, states=states, velocity=optimal, reference_cost=1.09))
    assert float(metric.compute()["npe"]) == pytest.approx(0, abs=1e-8)
    assert float(straightness(optimal, times, states).mean()) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("stop", [1.0, 0.6])
def test_straightness_is_path_energy_less_the_cost_of_the_chord(stop: float):
    times = torch.linspace(0, 1, 101, dtype=F64) ** 1.5 * stop
    states = runge_kutta(velocity, start(), times)
    chord = (states[-1] - states[0]).square().sum(dim=1) / stop
    bend = straightness(velocity, times, states)
    torch.testing.assert_close(bend, path_energy(velocity, times, states) - chord, rtol=0, atol=1e-7)
    assert bool((bend > 1e-3).any())


def test_straightness_as_a_metric():
    times = torch.linspace(0, 1, 101, dtype=F64)
    states = runge_kutta(velocity, start(), times)
    metric = Straightness()
    metric.update(outcome_of(times=times, states=states, velocity=velocity))
    # the map of the line is monotone, so the chord costs W2² = 1.09
    found = metric.compute()
    assert float(found["straightness"]) == pytest.approx(1.390443 - 1.09, abs=1e-6)
    assert float(found["straightness_relative"]) == pytest.approx((1.390443 - 1.09) / 1.09, abs=1e-6)


def test_energies_sum_over_coordinates():
    constant = lambda x, t: torch.full_like(x, 2.0)
    times, states = torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, 4, 3, 2)
    torch.testing.assert_close(path_energy(constant, times, states), torch.full((4,), 24.0, dtype=F64))


@pytest.mark.parametrize("times", [[0, 1], [0, 0.3, 1], [0, 0.1, 0.3, 1], [0, 0.1, 0.3, 0.6, 1]])
def test_time_weights_are_exact_on_parabolas(times: list[float]):
    grid = torch.tensor(times, dtype=F64)
    weights = time_weights(grid)
    for power in range(2 if len(times) == 2 else 3):
        assert float((weights * grid**power).sum()) == pytest.approx(1 / (power + 1))


def test_a_trajectory_is_needed():
    for times in ([0.0], [1.0, 0.0], [0.0, 0.0]):
        with pytest.raises(FlowportError, match="increasing times"):
            time_weights(torch.tensor(times))
    with pytest.raises(FlowportError, match="velocity"):
        NormalisedPathEnergy().update(outcome_of(velocity=None))
    with pytest.raises(FlowportError, match="divides by W2"):
        NormalisedPathEnergy().update(outcome_of(reference_cost=None))
    with pytest.raises(FlowportError, match="velocity"):
        Straightness().update(outcome_of(velocity=None))


def test_transport_cost_by_hand():
    source, result = torch.ones(2, 1, 2), torch.tensor([[[4.0, 5.0]], [[2.0, 1.0]]])
    torch.testing.assert_close(transport_cost(source, result), torch.tensor([25.0, 1.0], dtype=F64))
    metric = TransportCost()
    outcome = outcome_of(n=2)
    metric.update(outcome_of(n=2, source=outcome.source.with_x(source), result=result))
    found = metric.compute()
    assert (float(found["transport_cost"]), float(found["transport_cost_per_dimension"])) == (13.0, 6.5)
    with pytest.raises(FlowportError, match="one shape"):
        transport_cost(source, torch.zeros(2, 3))
