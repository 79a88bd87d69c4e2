"""Learning-rate schedulers: the rate is a closed function of the step."""

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
