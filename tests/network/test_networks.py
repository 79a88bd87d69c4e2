"""Laws of every network: shape, heads, time, label, source, rows, gradients, refusals."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from flowport.errors import FlowportError
from flowport.network import MLP, ADMUNet, DiT, Network, PatchUNet, SetTransformer, UNet
from flowport.types import Condition, ConditionShape

IMAGE = (2, 8, 8)
SMALL: dict[str, tuple[type[Network], dict, tuple[int, ...]]] = {
    "mlp": (MLP, {"width": 16}, (3,)),
    "mlp on images": (MLP, {"width": 16}, (2, 4, 3)),
    "patch_unet": (PatchUNet, {"width": 8, "embedding": 16}, IMAGE),
    "dit": (DiT, {"width": 16, "depth": 2}, IMAGE),
    "unet": (UNet, {"attention": (4,)}, IMAGE),
    "adm_unet": (ADMUNet, {"attention": (4,)}, IMAGE),
    "set_transformer": (SetTransformer, {"width": 16, "depth": 2}, (3, 9)),
    "set_transformer, induced": (SetTransformer, {"width": 16, "depth": 2, "induced": 4}, (3, 9)),
}
CONDITIONS = {
    "none": ConditionShape(),
    "classes": ConditionShape(classes=3),
    "values": ConditionShape(values=2),
    "source": ConditionShape(source=True),
    "source, dropped": ConditionShape(source=True, droppable=True),
    "all": ConditionShape(classes=3, source=True),
    "step": ConditionShape(classes=3, step=True),
}
B = 5


def built(name: str, condition: ConditionShape, heads: int = 1, awake: bool = True) -> Network:
    """A small network; awake: its zero-initialised layers are given values, so that nothing hides behind a zero."""
    kind, options, shape = SMALL[name]
    torch.manual_seed(0)
    net = kind(event_shape=shape, condition=condition, heads=heads, **options)
    if awake:
        for parameter in net.parameters():
            if parameter.eq(0).all():
                nn.init.normal_(parameter, std=0.3)
    return net.eval()


def given(name: str, shape: ConditionShape, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """x, t and a condition that fits; the second row's label is dropped, and its source where it may be."""
    g = torch.Generator().manual_seed(seed)
    event = SMALL[name][2]
    label = torch.tensor([0, -1, 1, 2, 1]) if shape.classes else None
    if shape.values:
        label = torch.randn(B, shape.values, generator=g)
        label[1] = torch.nan
    source = torch.randn(B, *event, generator=g) if shape.source else None
    if source is not None and shape.droppable:
        source[1] = torch.nan
    x, t = torch.randn(B, *event, generator=g), torch.rand(B, generator=g)
    return x, t, Condition(label, source, torch.rand(B, generator=g) if shape.step else None)


def cases() -> list[tuple[str, str]]:
    return [(n, c) for n in SMALL for c in CONDITIONS if (n, c) not in (("unet", "values"), ("unet", "step"))]


@pytest.mark.parametrize(("name", "which"), cases())
@pytest.mark.parametrize("heads", [1, 2])
def test_output_has_event_shape_times_heads(name: str, which: str, heads: int) -> None:
    shape = SMALL[name][2]
    y = built(name, CONDITIONS[which], heads)(*given(name, CONDITIONS[which]))
    assert y.shape == (B, heads * shape[0], *shape[1:])
    assert y.isfinite().all()
    assert y.std() > 0


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("mlp")])
def test_output_starts_at_exactly_zero(name: str) -> None:
    y = built(name, CONDITIONS["all"], 2, awake=False)(*given(name, CONDITIONS["all"]))
    assert y.eq(0).all()


@pytest.mark.parametrize(("name", "which"), cases())
def test_rows_are_independent(name: str, which: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS[which]), given(name, CONDITIONS[which])
    y, order = net(x, t, c), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x[order], t[order], c[order]), y[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[:1], t[:1], c[:1]), y[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_time_changes_the_output_even_near_zero(name: str) -> None:
    net, (x, _, c) = built(name, CONDITIONS["none"]), given(name, CONDITIONS["none"])
    start = net(x, torch.zeros(B), c)
    assert (net(x, torch.full((B,), 0.01), c) - start).abs().max() > 1e-5
    assert (net(x, torch.full((B,), 0.9), c) - start).abs().max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_source_changes_the_output_of_its_own_row_only(name: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS["source"]), given(name, CONDITIONS["source"])
    assert c.source is not None
    other = c.source.clone()
    other[2] += 1
    change = (net(x, t, Condition(source=other)) - net(x, t, c)).flatten(1).abs().amax(1)
    assert change[2] > 1e-3
    assert change[[0, 1, 3, 4]].max() < 1e-5


@pytest.mark.parametrize("name", [name for name, which in cases() if which == "step"])
def test_a_step_changes_its_row_and_none_is_a_step_of_zero(name: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS["step"]), given(name, CONDITIONS["step"])
    still = net(x, t, replace(c, step=None))
    assert torch.equal(net(x, t, replace(c, step=torch.zeros(B))), still)
    moved = net(x, t, replace(c, step=torch.tensor([0, 0, 0.03, 0, 0])))
    change = (moved - still).flatten(1).abs().amax(1)
    assert change[2] > 1e-5 and change[[0, 1, 3, 4]].max() < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_a_network_that_sees_no_step_refuses_one_and_keeps_its_weights(name: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS["classes"]), given(name, CONDITIONS["classes"])
    with pytest.raises(FlowportError, match="without the length of a step"):
        net(x, t, replace(c, step=t))
    assert not [key for key in net.state_dict() if "step" in key]


@pytest.mark.parametrize("name", SMALL)
def test_a_missing_source_is_zeros_with_a_mark_in_its_own_row_only(name: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS["source, dropped"]), given(name, CONDITIONS["source, dropped"])
    assert c.source is not None
    y, zeros = net(x, t, c), Condition(source=c.source.nan_to_num(0.0))
    change = (net(x, t, zeros) - y).flatten(1).abs().amax(1)
    assert change[1] > 1e-3, "a start of zeros and no start are two things"
    assert change[[0, 2, 3, 4]].max() < 1e-5
    known, parts = net.with_source(x, zeros), net.with_source(x, c)
    torch.testing.assert_close(known[:, :-1], parts[:, :-1], rtol=0, atol=0)
    assert bool((known[:, -1] == 0).all()) and bool((parts[1, -1] == 1).all()) and int(parts[0, -1].any()) == 0


@pytest.mark.parametrize(("name", "which"), [c for c in cases() if c[1] in ("classes", "values")])
def test_a_label_changes_its_row_and_a_dropped_one_is_the_learned_null(name: str, which: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS[which]), given(name, CONDITIONS[which])
    assert c.label is not None
    y, unconditional = net(x, t, c), net(x, t, Condition())
    kept = [0, 2, 3, 4]
    assert (y - unconditional)[kept].flatten(1).abs().amax(1).min() > 1e-4
    torch.testing.assert_close(y[1], unconditional[1], rtol=1e-4, atol=1e-5)
    label = c.label.clone()
    label[0] = label[2]
    change = (net(x, t, Condition(label)) - y).flatten(1).abs().amax(1)
    assert change[0] > 1e-4
    assert change[1:].max() < 1e-5


@pytest.mark.parametrize(("name", "which"), cases())
def test_gradient_reaches_every_parameter(name: str, which: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS[which], 2), given(name, CONDITIONS[which])
    net(x, t, c).square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


LAST: dict[str, Callable[[Any], Any]] = {
    "mlp": lambda net: net.layers[-1],
    "mlp on images": lambda net: net.layers[-1],
    "patch_unet": lambda net: net.out[2],
    "dit": lambda net: net.out,
    "unet": lambda net: net.net.out[2],
    "adm_unet": lambda net: net.out[2],
    "set_transformer": lambda net: net.out,
    "set_transformer, induced": lambda net: net.out,
}


@pytest.mark.parametrize("name", SMALL)
def test_first_half_is_head_zero_in_every_layer(name: str) -> None:
    """The second half of the last layer's rows makes the second head and nothing else."""
    net, (x, t, c) = built(name, CONDITIONS["none"], 2), given(name, CONDITIONS["none"])
    first, y, bias = SMALL[name][2][0], net(x, t, c), LAST[name](net).bias
    assert not torch.allclose(y[:, :first], y[:, first:])
    with torch.no_grad():
        bias[len(bias) // 2 :] += 1
    torch.testing.assert_close(net(x, t, c)[:, :first], y[:, :first])
    torch.testing.assert_close(net(x, t, c)[:, first:], y[:, first:] + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_time_stays_float32_under_bfloat16_autocast(name: str) -> None:
    """With time rounded to bfloat16, t = 0.5 and t = 0.5009 would be one and the same."""
    net, (x, t, c) = built(name, CONDITIONS["classes"]), given(name, CONDITIONS["classes"])
    seen: list[torch.Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, t, c)
    assert y.isfinite().all()
    torch.testing.assert_close(y.float(), net(x, t, c), rtol=0.2, atol=0.2 * float(net(x, t, c).detach().abs().max()))
    for module in net.modules():
        if type(module).__name__ == "TimeFeatures":
            module.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        net(x, torch.full((B,), 0.5), c), net(x, torch.full((B,), 0.5009), c)
    assert all(s.dtype == torch.float32 for s in seen)
    assert len(seen) == 0 or (seen[0] - seen[1]).abs().max() > 0.3


@pytest.mark.parametrize("name", [name for name in SMALL if name != "unet"])
def test_double_precision_networks_work(name: str) -> None:
    net, (x, t, c) = built(name, CONDITIONS["none"]), given(name, CONDITIONS["none"])
    y = net(x, t, c)
    torch.testing.assert_close(net.double()(x.double(), t.double(), c).float(), y, rtol=1e-3, atol=1e-4)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("divisible by 4", lambda: PatchUNet((1, 18, 16), ConditionShape())),
    ("divisible by 8", lambda: PatchUNet((1, 16, 20), ConditionShape(), patch=4)),
    ("images", lambda: PatchUNet((2,), ConditionShape())),
    ("images", lambda: UNet((4, 4), ConditionShape())),
    ("divisible by 2", lambda: UNet((1, 15, 16), ConditionShape())),
    ("32 groups", lambda: UNet(IMAGE, ConditionShape(), width=20)),
    ("height", lambda: UNet(IMAGE, ConditionShape(), attention=[16])),
    ("no level", lambda: UNet(IMAGE, ConditionShape(), multipliers=[])),
    ("length of a step", lambda: UNet(IMAGE, ConditionShape(step=True))),
    ("continuous", lambda: UNet(IMAGE, ConditionShape(values=2))),
    ("images", lambda: ADMUNet((4, 4), ConditionShape())),
    ("divisible by 4", lambda: ADMUNet((1, 18, 16), ConditionShape(), multipliers=[1, 1, 1])),
    ("32 groups", lambda: ADMUNet(IMAGE, ConditionShape(), width=20)),
    ("no level of height 16", lambda: ADMUNet(IMAGE, ConditionShape(), attention=[16])),
    ("attention_heads=5 does not divide the 32", lambda: ADMUNet(IMAGE, ConditionShape(), attention_heads=5)),
    ("no level", lambda: ADMUNet(IMAGE, ConditionShape(), multipliers=[])),
    ("divisible by 8 and a width divisible by 4", lambda: DiT((1, 64, 30), ConditionShape(), patch=[8, 4])),
    ("patch", lambda: DiT(IMAGE, ConditionShape(), patch=[2])),
    ("attention heads", lambda: DiT(IMAGE, ConditionShape(), width=10)),
    ("head", lambda: MLP((2,), ConditionShape(), heads=0)),
    ("depth", lambda: MLP((2,), ConditionShape(), depth=0)),
    ("dimension", lambda: MLP((), ConditionShape())),
    ("not both", lambda: MLP((2,), ConditionShape(classes=2, values=2))),
]


@pytest.mark.parametrize(("word", "make"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_impossible_networks_are_refused(word: str, make: Callable[[], object]) -> None:
    with pytest.raises(FlowportError, match=word):
        make()


@pytest.mark.parametrize("name", SMALL)
def test_conditions_the_network_was_not_built_for_are_refused(name: str) -> None:
    x, t, c = given(name, CONDITIONS["all"])
    plain, seeing = built(name, CONDITIONS["none"]), built(name, CONDITIONS["source"])
    with pytest.raises(FlowportError, match="label"):
        plain(x, t, Condition(label=c.label))
    with pytest.raises(FlowportError, match="x0"):
        plain(x, t, Condition(source=c.source))
    with pytest.raises(FlowportError, match="source"):
        seeing(x, t, Condition())
