"""Optimisers on CUDA: states load on any device, and rates are numbers outside of a graph."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flowport.training.device_optimizer import DeviceRates, make_portable, match_layout, move_counters, use_fused


def stepped(**options: Any) -> torch.optim.Adam:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], **options)
    parameter.grad = torch.ones(3)
    optimizer.step()
    return optimizer


def test_saved_options_of_the_device_are_those_of_the_config() -> None:
    optimizer = stepped(lr=0.1, fused=True)
    state = optimizer.state_dict()
    make_portable([state], [{"lr": 0.1, "fused": None, "foreach": None, "capturable": False}])
    (group,) = state["param_groups"]
    assert (group["fused"], group["foreach"], group["capturable"]) == (None, None, False)
    assert optimizer.param_groups[0]["fused"] is True, "the optimiser itself stays as it is"
    again = torch.optim.Adam([nn.Parameter(torch.ones(3))], lr=0.1)
    again.load_state_dict(state)
    assert again.param_groups[0]["fused"] is None


def test_rates_are_tensors_inside_only_and_follow_the_numbers() -> None:
    optimizer = torch.optim.Adam([{"params": [nn.Parameter(torch.ones(1))], "lr": r} for r in (0.1, 0.2)])
    rates = DeviceRates(optimizer, torch.device("cpu"))
    with rates.inside():
        assert [group["capturable"] for group in optimizer.param_groups] == [True, True]
        assert [group["lr"] for group in optimizer.param_groups] == rates.tensors
    assert [(group["lr"], group["capturable"]) for group in optimizer.param_groups] == [(0.1, False), (0.2, False)]
    optimizer.param_groups[1]["lr"] = 0.5
    rates.fill()
    assert [float(tensor) for tensor in rates.tensors] == pytest.approx([0.1, 0.5])


def test_a_scheduler_sees_numbers_beside_a_graph() -> None:
    optimizer = stepped(lr=0.1)
    rates = DeviceRates(optimizer, torch.device("cpu"))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with rates.inside():
        pass
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05]
    assert optimizer.param_groups[0]["initial_lr"] == 0.1
    assert type(optimizer.state_dict()["param_groups"][0]["lr"]) is float


def test_moments_of_another_memory_format_are_those_of_the_same_weights() -> None:
    """Of a checkpoint of the host, where images are not channels last; a fused kernel reads both in memory order."""
    steps = []
    for to_last in (False, True):
        layer = nn.Conv2d(3, 4, 3)
        nn.init.constant_(layer.weight, 0.5)
        if to_last:
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam([layer.weight], lr=0.1, fused=True)
        moments = torch.arange(108.0).view(4, 3, 3, 3) / 100
        state = {"step": torch.tensor(3.0), "exp_avg": moments, "exp_avg_sq": moments.square()}
        optimizer.load_state_dict({"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]})
        match_layout(optimizer)
        assert optimizer.state[layer.weight]["exp_avg"].stride() == layer.weight.stride()
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        steps.append(layer.weight.detach().contiguous())
    torch.testing.assert_close(*steps)


def test_counters_move_and_keep_their_value() -> None:
    optimizer = stepped(lr=0.1)
    move_counters(optimizer, optimizer.param_groups[0]["params"])
    (state,) = optimizer.state.values()
    assert state["step"].dtype == torch.float32
    assert float(state["step"]) == 1


def test_parameters_on_the_host_keep_their_kernels() -> None:
    optimizer = stepped(lr=0.1)
    use_fused(optimizer)
    assert optimizer.param_groups[0]["fused"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    ("make", "fused"),
    [
        (torch.optim.Adam, True),
        (torch.optim.AdamW, True),
        (lambda p: torch.optim.Adam(p, foreach=True), None),
        (lambda p: torch.optim.Adam(p, fused=False), False),
        (torch.optim.RMSprop, None),
    ],
)
def test_adam_is_fused_on_cuda_unless_told_otherwise(make: Any, fused: bool | None, tmp_path: Path) -> None:
    optimizer = make([nn.Parameter(torch.ones(3, device="cuda"))])
    use_fused(optimizer)
    assert optimizer.param_groups[0].get("fused") is fused
