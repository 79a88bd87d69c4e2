"""Replayed calls of a network are its own calls, bit by bit; a stand-in takes the place of CUDA graphs."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from flowport.coupling import IndependentCoupling
from flowport.distribution import EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.field import LearnedField
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.network import MLP
from flowport.network.replay import AFTER, Replay, start_replay, stop_replay
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import DDIM, RK4, DPMSolver, Heun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.tensors import float32_products
from flowport.training.compose import compose
from flowport.types import Condition, ConditionShape, Sample
from tests.network.graphs import Graphs
from tests.training.repetition import Repetition


def field(source: Any = None) -> LearnedField:
    flow, _ = compose(source or EightGaussians(), Moons(), coupling=IndependentCoupling())
    with torch.no_grad():
        for p in flow.ema.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return flow.ema  # type: ignore[return-value]


@pytest.mark.parametrize("solver", [Heun(), RK4(), DPMSolver(), DDIM()])
def test_a_translation_is_the_same_with_replays(solver: Any) -> None:
    ema, graphs = field(Gaussian(event_shape=[2])), Graphs()
    translator = Translator(ema, solver, UniformGrid(60), ZeroVolatility(), chunk=40)
    source = Sample(Gaussian(event_shape=[2]).sample(100, torch.Generator().manual_seed(0)).x)
    wanted = translator.forward(source, torch.Generator().manual_seed(1), all_states=True)
    started = start_replay(ema, graphs)
    found = translator.forward(source, torch.Generator().manual_seed(1), all_states=True)
    stop_replay(started)
    assert torch.equal(found.states, wanted.states)
    assert found.nfe == wanted.nfe
    assert graphs.made == 2, "chunks of 40 and of 20"
    assert graphs.replays == 3 * found.nfe - 2 * AFTER
    assert ema.network.replay is None


def test_paths_and_lean_adjoints_of_fine_tuning_are_the_same_with_replays() -> None:
    base, graphs = field(Gaussian(event_shape=[2])).requires_grad_(False), Graphs()
    scheme, start = ConsistentDiscretisation(), torch.randn(16, 2, generator=torch.Generator().manual_seed(3))

    def computed() -> tuple[Tensor, Tensor]:
        paths = roll_out(scheme, base, start, Condition(), torch.Generator().manual_seed(4))
        return paths.states, lean_adjoint(scheme, base, paths.states, Condition(), torch.ones(16, 2))

    wanted = computed()
    started = start_replay(base, graphs)
    for found in (computed(), computed()):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    stop_replay(started)
    assert graphs.made == 2, "without and with the derivative"
    assert graphs.replays == 4 * len(scheme.noise_schedule(base).steps) - 2 * AFTER


def test_a_derivative_outside_of_lean_adjoints_is_computed_anew() -> None:
    """A second derivative through a graph is not possible."""
    ema, graphs = field(), Graphs()
    started = start_replay(ema, graphs)
    x = torch.randn(4, 2, requires_grad=True)
    for _ in range(AFTER + 2):
        (slope,) = torch.autograd.grad(ema.velocity(x, torch.full((4,), 0.5), Condition()).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    stop_replay(started)
    assert graphs.made == 0
    assert bool(curvature.isfinite().all())


def test_the_adjoint_of_paths_under_autocast_is_that_of_float32() -> None:
    base, scheme = field(Gaussian(event_shape=[2])).requires_grad_(False), ConsistentDiscretisation()
    states = roll_out(scheme, base, torch.randn(8, 2), Condition(), torch.Generator().manual_seed(4)).states
    wanted = lean_adjoint(scheme, base, states, Condition(), torch.ones(8, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lean_adjoint(scheme, base, states, Condition(), torch.ones(8, 2)), wanted)


def test_a_replayed_derivative_is_a_tensor_of_its_own_and_belongs_to_the_last_call() -> None:
    net = network().requires_grad_(False)
    start_replay(net, Graphs())
    assert net.replay is not None
    net.replay.gradients = True
    t, condition = torch.rand(4), Condition()

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(y.square().sum(), x)[0]

    points = [torch.randn(4, 2, requires_grad=True) for _ in range(2)]
    for _ in range(AFTER):
        net(points[0], t, condition)
    found = [slope(x, net(x, t, condition)) for x in points]
    for mine, x in zip(found, points, strict=True):
        assert torch.equal(mine, slope(x, net.forward(x, t, condition)))
    first = net(points[0], t, condition)
    net(points[1], t, condition)
    with pytest.raises(RuntimeError, match="called again before the gradient of its last call"):
        slope(points[0], first)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((2,), ConditionShape(classes=3, droppable=False), 1).eval()


def test_weights_that_change_in_place_are_seen() -> None:
    net = network()
    x, t, condition = torch.randn(4, 2), torch.rand(4), Condition(label=torch.tensor([0, 1, 2, -1]))
    (_,), graphs = start_replay(net, made := Graphs()), made
    with torch.no_grad():
        for _ in range(AFTER + 1):
            net(x, t, condition)
        for p in net.parameters():
            p.add_(1)
        assert graphs.made == 1
        assert torch.equal(net(x, t, condition), net.forward(x, t, condition))


@torch.no_grad()
def test_other_shapes_conditions_and_modes_are_other_recordings() -> None:
    net, graphs = network(), Graphs()
    start_replay(net, graphs)
    x, t, label = torch.randn(4, 2), torch.rand(4), torch.tensor([0, 1, 2, 0])
    for given in ((x, t, Condition(label=label)), (x, t, Condition()), (x[:2], t[:2], Condition(label=label[:2]))):
        for _ in range(AFTER + 1):
            net(*given)
    with torch.inference_mode():
        for _ in range(AFTER + 1):
            net(x, t, Condition())
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(AFTER + 1):
            net(x, t, Condition())
    assert graphs.made == 5


@torch.no_grad()
def test_a_network_in_training_is_not_replayed_and_a_copy_has_no_recordings() -> None:
    net, graphs = network().train(), Graphs()
    start_replay(net, graphs)
    for _ in range(AFTER + 2):
        net(torch.randn(4, 2), torch.rand(4), Condition())
    assert graphs.made == 0
    assert deepcopy(net).replay is None
    assert start_replay(net, Graphs()) == [], "an outer context keeps its recordings"


def test_a_network_on_the_host_or_that_reads_the_device_is_left_alone() -> None:
    net = network()
    assert start_replay(net) == []

    class Reading(MLP):
        capturable = False

    assert start_replay(Reading((2,), ConditionShape(), 1), Graphs()) == []


@torch.no_grad()
def test_what_cannot_be_recorded_is_said_in_one_sentence() -> None:
    class Failing(Repetition):
        def record(self, body: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replay = Replay(network().forward, Failing)
    for _ in range(AFTER):
        replay(torch.randn(4, 2), torch.rand(4), Condition())
    with pytest.raises(FlowportError, match=r"CUDA graph \(operation not permitted .* capturing\): declare capturable"):
        replay(torch.randn(4, 2), torch.rand(4), Condition())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_graphs_give_the_translation_and_the_adjoints_of_single_kernels() -> None:
    base = field(Gaussian(event_shape=[2])).cuda().requires_grad_(False)
    scheme, start = ConsistentDiscretisation(), torch.randn(16, 2, device="cuda")
    translator = Translator(base, Heun(), UniformGrid(60), ZeroVolatility())

    def computed() -> list[Tensor]:
        paths = roll_out(scheme, base, start, Condition(), torch.Generator("cuda").manual_seed(4))
        adjoint = lean_adjoint(scheme, base, paths.states, Condition(), torch.ones_like(start))
        return [paths.states, adjoint, translator.forward(Sample(start), torch.Generator("cuda")).end]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowport.network.replay.AFTER", 10**9)
        wanted = computed()
    started = start_replay(base)
    for _ in range(2):
        for found, other in zip(computed(), wanted, strict=True):
            torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    assert base.network.replay is not None
    assert len(base.network.replay.recorded) == 3
    stop_replay(started)


def test_a_recording_in_tf32_is_not_replayed_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation between steps of a fine-tuning measures in full float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    graphs, x, t = Graphs(), torch.ones(4, 2), torch.ones(4)
    call = Replay(lambda x, t, condition: x + t[:, None], graphs)
    for tf32 in (True, False, True):
        with float32_products(tf32):
            for _ in range(AFTER + 1):
                call(x, t, Condition())
    assert graphs.made == 2
