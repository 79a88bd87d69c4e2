"""The option ``compile`` of every network, and what a compiler sees of it: one graph."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from flowport.errors import FlowportError
from flowport.network import MLP, ADMUNet, DiT, Network, PatchUNet, SetTransformer, UNet
from flowport.run.build import build, check
from flowport.training import compilation
from flowport.types import Condition
from tests.network.test_networks import CONDITIONS, SMALL, built, given
from tests.test_configs import CONFIGS, composed

MEMBERS = {"mlp": MLP, "patch_unet": PatchUNet, "dit": DiT, "unet": UNet, "adm_unet": ADMUNet}
MEMBERS["set_transformer"] = SetTransformer


class Counting:
    """A backend that runs a graph as it is; it holds the number of operations of every graph."""

    def __init__(self) -> None:
        self.graphs: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs.append(len(graph.graph.nodes))
        return graph.forward

    @property
    def large(self) -> list[int]:
        """Without the trial."""
        return [size for size in self.graphs if size > 5]


class Halves(Network):
    """A user's member that knows nothing of the option."""

    def __init__(self, event_shape: Any, condition: Any, heads: int = 1, **options: float) -> None:
        super().__init__(event_shape, condition, heads)
        self.scale = nn.Parameter(torch.tensor(options.get("scale", 0.5)))

    def forward(self, x: Any, t: Any, condition: Any) -> Any:
        return self.scale * x


class Bare(Network):
    """A member without a constructor."""

    def forward(self, x: Any, t: Any, condition: Any) -> Any:
        return x


@pytest.mark.parametrize("kind", [Halves, partial(Halves, scale=2.0), Bare, *MEMBERS.values()])
def test_every_member_takes_the_option_without_declaring_it(kind: Any) -> None:
    shape = (2, 8, 8) if kind is not SetTransformer else (2, 8)
    for wanted in (False, True):
        made = kind(event_shape=shape, condition=CONDITIONS["none"], heads=1, compile=wanted)
        assert made.to_compile is wanted
    assert not kind(event_shape=shape, condition=CONDITIONS["none"], heads=1).to_compile


def test_every_config_has_the_option_and_it_is_true_or_false() -> None:
    for path in (CONFIGS / "network").glob("*.yaml"):
        config = composed("experiment=none", f"network={path.stem}")
        assert config.network.compile is False, path
        check(config)
        config.network.compile = True
        check(config)
        config.network.compile = "maybe"
        with pytest.raises(FlowportError, match=r"network\.compile=maybe is of the wrong kind: .* true or false"):
            check(config)


def test_a_run_of_an_earlier_version_has_no_such_key() -> None:
    config = composed("experiment=none")
    del config.network.compile
    assert not build(config).module.field.network.to_compile


@pytest.mark.slow
@pytest.mark.parametrize(("name", "which"), [(n, c) for n in SMALL for c in ("classes", "source, dropped", "step")])
def test_every_network_is_one_graph(name: str, which: str) -> None:
    if (name, which) == ("unet", "step"):
        pytest.skip("takes no steps")
    torch._dynamo.reset()
    counting, net = Counting(), built(name, CONDITIONS[which])
    expected = net(*given(name, CONDITIONS[which]))
    net.compile(backend=counting, dynamic=False, fullgraph=True)
    assert torch.equal(net(*given(name, CONDITIONS[which])), expected)
    net(*given(name, CONDITIONS[which], seed=2))
    assert len(counting.graphs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_compiled_network_is_captured_in_a_graph() -> None:
    torch._dynamo.reset()
    kind, small, shape = SMALL["adm_unet"]
    net = kind(event_shape=shape, condition=CONDITIONS["none"], heads=1, **small, compile=True).cuda()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(8, *shape, device="cuda"), torch.rand(8, device="cuda")
    expected = net(x, t, Condition())
    compilation.compile_networks(net, x.device)
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            net(x, t, Condition()).square().mean().backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = net(x, t, Condition())
        found.square().mean().backward()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
