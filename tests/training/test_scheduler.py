"""Learning-rate schedulers: the rate is a closed function of the step."""

import math
from functools import partial

import pytest
import torch

from flowport.training.scheduler import ConstantScheduler, CosineScheduler


def rates(make: type, steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = make(optimizer, steps, **options)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_cosine_falls_from_the_rate_to_its_floor() -> None:
    found = rates(CosineScheduler, 100, warmup=0, floor=0.1)
    assert found[0] == pytest.approx(2.0)
    assert found[50] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert found[100] == pytest.approx(0.2)
    assert found == sorted(found, reverse=True)


def test_the_warm_up_is_linear() -> None:
    found = rates(ConstantScheduler, 20, warmup=4)
    assert found[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert found[-1] == pytest.approx(2.0)


def resumed(old, new, at):
    """The rates of a schedule that is stopped at a step and resumed as another one."""
    parameter, rates = torch.nn.Parameter(torch.zeros(1)), []
    optimizer = torch.optim.Adam([parameter], lr=0.01)
    scheduler = old(optimizer)
    for _ in range(at):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    kept = optimizer.state_dict(), scheduler.state_dict()
    optimizer = torch.optim.Adam([parameter], lr=0.01)
    scheduler = new(optimizer)
    optimizer.load_state_dict(kept[0])
    scheduler.load_state_dict(kept[1])
    while scheduler.last_epoch < 300:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("at", [37, 100, 199, 200])
def test_an_extended_cosine_goes_on_from_the_rate_where_it_was(at, caplog):
    caplog.set_level("INFO")
    short, long = partial(CosineScheduler, steps=200, warmup=10), partial(CosineScheduler, steps=300, warmup=10)
    rates = resumed(short, long, at)
    height = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * at / 200))
    for k in range(at, 300):
        share = (k - at) / (300 - at)
        assert rates[k] == pytest.approx(0.01 * (0.02 + (height - 0.02) * 0.5 * (1 + math.cos(math.pi * share))))
    assert f"(200, 10, 0.02) becomes one of (300, 10, 0.02): from step {at} on" in caplog.text


def test_a_cosine_that_is_resumed_as_it_was_has_the_rates_of_an_unbroken_one():
    same = partial(CosineScheduler, steps=300, warmup=10)
    assert resumed(same, same, 150) == resumed(same, same, 0)


def test_another_floor_takes_effect_without_a_jump():
    old, new = partial(CosineScheduler, steps=300, floor=0.02), partial(CosineScheduler, steps=300, floor=0.2)
    rates = resumed(old, new, 150)
    assert rates[150] == pytest.approx(0.01 * (0.02 + 0.98 / 2))
    assert rates[-1] == pytest.approx(0.01 * 0.2, rel=1e-3)
