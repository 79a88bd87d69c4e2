"""What fine-tuning may change: every network can be silenced, low rank touches little, half precision stays outside."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from flowport.errors import FlowportError
from flowport.field import LearnedField
from flowport.finetuning.adapter import ControlAdapter, LowRankAdapter, ValueAdapter
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import ValueMatching
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP
from flowport.sampling.grid import UniformGrid
from flowport.training import compilation
from flowport.types import Condition, ConditionShape
from tests.laws.oracles import FROM_NOISE
from tests.laws.tilts import Difference, from_noise
from tests.network.test_networks import SMALL, built


def learned(network, x=None):
    like = from_noise(FROM_NOISE["gaussian"])
    return LearnedField(network, like.path, like.prediction, like.conditioning, like.capabilities)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_begins_as_no_change_and_learns(name):
    kind, options, shape = SMALL[name]
    base = learned(built(name, ConditionShape()))
    tilted = TiltedField(base, ControlAdapter(base, shape, ConditionShape(), partial(kind, **options)))
    x, t = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(tilted.velocity(x, t, Condition()), base.velocity(x, t, Condition()), rtol=0, atol=0)
    tilted.tilt(x, t, Condition()).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in tilted.adapter.parameters())


def test_paths_and_adjoints_stay_in_float32_under_autocast():
    """The network runs in bfloat16; what is added up over steps does not."""
    base = learned(MLP((2,), ConditionShape(), width=32, depth=2)).requires_grad_(False)
    x, discretisation = torch.randn(64, 2), ConsistentDiscretisation(UniformGrid(8))
    found = []
    for half in (False, True):
        generator = torch.Generator().manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            paths = roll_out(discretisation, base, x, Condition(), generator, TiltedField(base, Difference(base)))
            adjoint = lean_adjoint(discretisation, base, paths.states, Condition(), torch.ones_like(x))
            assert base.velocity(x, torch.full((64,), 0.5), Condition()).dtype == torch.float32
        assert {paths.states.dtype, paths.log_ratio.dtype, adjoint.dtype} == {torch.float32}
        found.append((paths.states[-1], adjoint[0]))
    for plain, halved in zip(*found, strict=True):
        assert not torch.equal(plain, halved) and float((plain - halved).abs().max()) < 0.05 * float(plain.abs().max())


@pytest.mark.parametrize("name", SMALL)
def test_low_rank_begins_as_no_change_of_any_network_and_learns_again_upon_itself(name):
    pytest.importorskip("peft")
    _, _, shape = SMALL[name]
    base = learned(built(name, ConditionShape()))
    x, t = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
    for _ in range(2):
        tilted = TiltedField(base, LowRankAdapter(base, shape, ConditionShape(), rank=2))
        torch.testing.assert_close(*(f.velocity(x, t, Condition()) for f in (tilted, base)), rtol=1e-4, atol=1e-4)
        learnt = [p for p in tilted.parameters() if p.requires_grad]
        tilted.velocity(x, t, Condition()).square().sum().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in learnt)
        for p in learnt:
            torch.nn.init.normal_(p, std=0.1)
        base = tilted.requires_grad_(False).eval()


def test_low_rank_trains_low_rank_additions_alone():
    pytest.importorskip("peft")
    base = learned(MLP((2,), ConditionShape(), width=32, depth=2))
    tilted = TiltedField(base, LowRankAdapter(base, (2,), ConditionShape(), rank=2))
    x, t = torch.randn(5, 2), torch.linspace(0, 1, 5)
    torch.testing.assert_close(tilted.velocity(x, t, Condition()), base.velocity(x, t, Condition()), rtol=0, atol=0)
    learnt = {name: p for name, p in tilted.named_parameters() if p.requires_grad}
    assert learnt and all("lora_" in name and min(p.shape) <= 2 for name, p in learnt.items())
    assert sum(p.numel() for p in learnt.values()) < 0.6 * sum(p.numel() for p in base.parameters())
    tilted.velocity(x, t, Condition()).square().sum().backward()
    assert any(bool(p.grad.any()) for p in learnt.values())


def test_low_rank_additions_are_compiled_with_their_network(monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    base = learned(MLP((2,), ConditionShape(), width=32, depth=2, compile=True))
    tilted = TiltedField(base, LowRankAdapter(base, (2,), ConditionShape(), rank=2))
    for parameter in tilted.adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(5, 2), torch.linspace(0, 1, 5)
    expected, names = tilted.velocity(x, t, Condition()), list(tilted.state_dict())
    compilation.compile_networks(tilted, torch.device("cpu"))
    assert [n for n, m in tilted.named_modules() if m._compiled_call_impl is not None] == ["adapter.copy.network"]
    torch.testing.assert_close(tilted.velocity(x, t, Condition()), expected)
    assert list(tilted.state_dict()) == names
    again = LowRankAdapter(tilted.eval(), (2,), ConditionShape(), rank=2)  # merged into a copy, which is not compiled
    assert not [m for m in again.modules() if m._compiled_call_impl is not None]


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": 0.0}])
def test_a_rank_that_is_none_is_refused(options):
    with pytest.raises(FlowportError, match="needs rank"):
        LowRankAdapter(learned(MLP((2,), ConditionShape())), (2,), ConditionShape(), **options)


@pytest.mark.parametrize("name", SMALL)
def test_a_value_begins_as_no_change_and_its_gradient_is_the_tilt(name):
    kind, options, shape = SMALL[name]
    base = learned(built(name, ConditionShape())).requires_grad_(False)
    tilted = TiltedField(base, ValueAdapter(base, shape, ConditionShape(), partial(kind, **options)))
    x, t = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(tilted.velocity(x, t, Condition()), base.velocity(x, t, Condition()), rtol=0, atol=0)
    for parameter in tilted.adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(tilted.log_value(point, t, Condition()).sum(), point)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    close(tilted.tilt(x, t, Condition()), slope)
    eta = tilted.gains(t).eta.view(-1, *[1] * len(shape))
    close(tilted.shift(x, t, Condition()), eta * slope)
    with torch.inference_mode():
        close(tilted.tilt(x.clone(), t.clone(), Condition()), slope)
    tilted.tilt(x, t, Condition()).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in tilted.adapter.parameters())
    assert deepcopy(tilted.adapter).shared.field is base, "a moving average does not copy the base"


def test_a_change_without_a_value_is_refused_where_one_is_learnt():
    base = learned(MLP((2,), ConditionShape()))
    tilted = TiltedField(base, ControlAdapter(base, (2,), ConditionShape(), MLP))
    with pytest.raises(FlowportError, match="adapter=control has no value to learn as a number: use adapter=value"):
        tilted.log_value(torch.zeros(1, 2), torch.zeros(1), Condition())
    with pytest.raises(FlowportError, match="method=value_matching learns a number, which adapter=control has not"):
        ValueMatching().accept_adapter(tilted)
