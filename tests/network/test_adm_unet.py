"""The U-Net for the GPU: equal to torchcfm's, channels last throughout, checkpointing, and no read of the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from flowport.errors import FlowportError
from flowport.network import ADMUNet, UNet, from_torchcfm
from flowport.network.adm_block import ADMStage
from flowport.types import Condition, ConditionShape
from tests.test_syncs import watched

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "attention at two levels": {"attention": (8, 4), "attention_heads": 2},
    "attention in the middle alone": {"attention": (), "attention_heads": 1},
    "odd multipliers, three levels": {"multipliers": (1, 3, 5), "residual_blocks": 2, "attention": (4,)},
    "one level": {"multipliers": (3,), "residual_blocks": 3, "attention_heads": 8},
    "narrow at first": {"multipliers": (2, 1), "width": 32, "time_scale": 1000.0},
    "odd width": {"width": 3, "multipliers": (32, 32), "attention": (4,)},
}
CONDITIONS = {
    "none": ConditionShape(),
    "classes": ConditionShape(classes=3),
    "all": ConditionShape(classes=3, source=True, droppable=True),
}


def inputs(shape: ConditionShape, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    g = torch.Generator().manual_seed(1)
    x, source = torch.randn(2, 4, 2, 8, 8, generator=g, dtype=dtype).unbind(0)
    source[1] = torch.nan if shape.droppable else 0.0
    label = torch.tensor([2, -1, 0, 1]) if shape.classes else None
    label = torch.randn(4, shape.values, generator=g, dtype=dtype) if shape.values else label
    step = torch.rand(4, generator=g, dtype=dtype) if shape.step else None
    t = torch.rand(4, generator=g, dtype=dtype)
    return x, t, Condition(label, source if shape.source else None, step)


def awake(net: ADMUNet, seed: int = 0) -> ADMUNet:
    """The network with weights that hide nothing behind a zero."""
    g = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=g)
    return net


@pytest.mark.parametrize("which", CONDITIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_outputs_and_gradients_are_those_of_torchcfms_unet(name: str, which: str) -> None:
    pytest.importorskip("torchcfm")
    shape, nets = CONDITIONS[which], []
    for kind in (UNet, ADMUNet):
        torch.manual_seed(0)
        nets.append(kind((2, 8, 8), shape, 2, **OPTIONS[name]))
    theirs, ours = nets
    start = from_torchcfm(theirs.state_dict())
    assert all(torch.equal(value, start[key]) for key, value in ours.state_dict().items()), "another start"
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours.load_state_dict(from_torchcfm(theirs.state_dict()))
    x, t, condition = inputs(shape)
    expected, found = theirs(x, t, condition), ours(x, t, condition)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    for made in (expected, found):
        (weight * made).sum().backward()
    wanted = from_torchcfm({key: p.grad for key, p in theirs.named_parameters() if p.grad is not None})
    gradients = {key: p.grad for key, p in ours.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for key, gradient in gradients.items():
        # Of a bias before a norm of one channel per group, the gradient is 0 up to rounding.
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-4, atol=1e-4)


def test_weights_of_another_architecture_are_refused_by_their_name() -> None:
    weights = {"net.input_blocks.1.0.in_layers.5.weight": torch.zeros(1)}
    with pytest.raises(FlowportError, match=r"input_blocks\.1\.0\.in_layers\.5\.weight is no weight of the U-Net"):
        from_torchcfm(weights)


def test_weights_of_a_data_parallel_network_have_a_prefix() -> None:
    torchcfm = pytest.importorskip("torchcfm.models.unet.unet")
    theirs = torchcfm.UNetModel(8, 2, 32, 2, 1, (2,), channel_mult=(1, 2), num_heads=4)
    ours = ADMUNet((2, 8, 8), ConditionShape(), attention=(4,))
    ours.load_state_dict(from_torchcfm({f"module.{key}": value for key, value in theirs.state_dict().items()}))


def test_feature_maps_that_are_channels_last_stay_so() -> None:
    shape = ConditionShape(classes=3, source=True)
    net, (x, t, condition) = awake(ADMUNet((2, 8, 8), shape, multipliers=(1, 2, 2))), inputs(shape)
    expected, seen = net(x, t, condition), list[tuple[str, bool]]()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name, module in net.named_modules():
        module.register_forward_hook(
            lambda m, args, out, name=name: (
                seen.append((name, out.is_contiguous(memory_format=torch.channels_last))) if out.ndim == 4 else None
            )
        )
    found = net(x, t, condition)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(seen) > 40 and [name for name, last in seen if not last] == []


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """Storage -> bytes of what autograd keeps for the backward pass."""
    kept = dict[int, int]()

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield kept


@pytest.mark.parametrize("shape", [ConditionShape(), ConditionShape(values=2, source=True, step=True)])
def test_checkpointing_gives_the_same_gradients_from_less_memory(shape: ConditionShape) -> None:
    outputs, gradients, memory = [], [], []
    for checkpointing in (False, True):
        net = awake(ADMUNet((2, 8, 8), shape, multipliers=(1, 2, 2), attention=(4,), checkpointing=checkpointing))
        x, t, condition = inputs(shape)
        with kept_bytes() as kept:
            y = net.train()(x.requires_grad_(), t, condition)
        y.square().sum().backward()
        outputs.append(y)
        memory.append(sum(kept.values()) - sum(p.nbytes for p in net.parameters()))
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert memory[1] < 0.5 * memory[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_dropout_the_gradient_is_that_of_the_same_random_numbers(checkpointing: bool) -> None:
    """Against central differences of the loss, every pass from the same seed."""
    net = awake(ADMUNet((2, 8, 8), ConditionShape(), dropout=0.4, checkpointing=checkpointing)).double().train()
    x, t, condition = inputs(ConditionShape(), torch.float64)
    along = [torch.randn_like(p) for p in net.parameters()]

    def loss(seed: int = 3) -> torch.Tensor:
        torch.manual_seed(seed)
        return net(x, t, condition).square().mean()

    loss().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(net.parameters(), along, strict=True))
    ends = []
    for side in (1, -2):
        with torch.no_grad():
            for p, d in zip(net.parameters(), along, strict=True):
                p += side * 1e-6 * d
        ends.append(loss().detach())  # with gradients, since nothing is checkpointed without
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-5, atol=1e-8)
    assert not torch.equal(loss(), loss(4)), "dropout draws nothing"
    net.eval()
    assert torch.equal(loss(), loss(4)), "dropout draws in evaluation"


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_checkpointed_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    stage = ADMStage(32, 64, 8, rate, checkpointing=True)
    keep = stage.residual.kept(torch.zeros(16, 32, 16, 16).to(memory_format=torch.channels_last))
    assert keep is not None and keep.dtype == torch.bool
    assert keep.is_contiguous(memory_format=torch.channels_last)
    assert abs(float(keep.float().mean()) - (1 - rate)) < 0.01  # of 262,144 draws: ten standard deviations
    torch.nn.init.dirac_(stage.residual.second.weight)
    x, embedding = torch.randn(16, 32, 16, 16), torch.zeros(16, 8)
    dropped = float((stage(x, embedding) - stage.residual.skip(x)).detach().mean())
    whole = float((stage.eval()(x, embedding) - stage.residual.skip(x)).detach().mean())
    assert abs(whole) > 0.1
    assert abs(dropped - (0 if rate == 1 else whole)) < 0.02


def test_a_value_whose_gradient_is_trained_may_be_checkpointed() -> None:
    """The gradient of a gradient, as adapter=value needs it."""
    gradients = []
    for checkpointing in (False, True):
        net = awake(ADMUNet((2, 8, 8), ConditionShape(), checkpointing=checkpointing)).double().train()
        x, t, condition = inputs(ConditionShape(), torch.float64)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (slope,) = torch.autograd.grad(net(x.requires_grad_(), t, condition).sum(), x, create_graph=True)
            slope.square().sum().backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


SHAPES = [
    ConditionShape(classes=3, source=True, droppable=True, step=True),
    ConditionShape(values=2, source=True, droppable=True, step=True),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_the_network_reads_nothing_back(shape: ConditionShape, checkpointing: bool) -> None:
    net = awake(ADMUNet((2, 8, 8), shape, dropout=0.1, checkpointing=checkpointing)).train()
    with watched("cpu") as waits:
        net(*inputs(shape)).square().mean().backward()
    assert waits.seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_captured_in_a_graph_and_waits_for_nothing(shape: ConditionShape, checkpointing: bool) -> None:
    net = awake(ADMUNet((2, 8, 8), shape, checkpointing=checkpointing)).to("cuda", memory_format=torch.channels_last)
    x, t, condition = inputs(shape)
    given = x.cuda(), t.cuda(), condition.each(torch.Tensor.cuda)

    def step() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = net(*given).float().square().mean()
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    net.zero_grad(set_to_none=False)
    with watched("cuda"):
        step()
    eager = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    graph = torch.cuda.CUDAGraph()
    net.zero_grad(set_to_none=False)
    with torch.cuda.graph(graph):
        step()
    net.zero_grad(set_to_none=False)
    graph.replay()
    for a, p in zip(eager, net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, a, rtol=5e-2, atol=5e-2 * float(a.abs().max()) + 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_dropout_of_a_captured_step_is_drawn_anew_by_every_replay() -> None:
    net = awake(ADMUNet((2, 8, 8), ConditionShape(), dropout=0.5, checkpointing=True)).cuda().train()
    x, t = inputs(ConditionShape())[:2]
    x, t = x.cuda(), t.cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            net(x, t, Condition()).square().mean().backward()
    torch.cuda.synchronize()
    graph, losses = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        loss = net(x, t, Condition()).square().mean()
        loss.backward()
    for seed in (1, 2, 1):
        torch.cuda.manual_seed(seed)
        graph.replay()
        losses.append(float(loss))
    assert losses[0] == losses[2] != losses[1]
