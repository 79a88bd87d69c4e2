"""Rows in pieces: the results of one evaluation, for every method, adapter, reward and network."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from flowport.conditioning import SourceConditioning
from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian
from flowport.errors import FlowportError
from flowport.finetuning.adapter import ControlAdapter, FullAdapter, ValueAdapter
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import PathWeighted
from flowport.finetuning.peak_memory import LiveBytes
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP, ADMUNet, DiT, PatchUNet, SetTransformer
from flowport.network.pieces import in_pieces, set_piece_rows, spans
from flowport.path import BrownianBridge
from flowport.randomness import Randomness
from flowport.reward import LinearReward, QuadraticReward, Reward, SumReward
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Condition, ConditionShape, Pair, Sample
from tests.zoo import STEPS, TUNINGS

SMALL = {"width": 8, "depth": 1}
ROWS, N = 7, 8
"""Rows of a piece, which do not divide the rows of a batch."""


def tuning(method, adapter, rows, bridge=False, reward=None, **more):
    """A fine-tuning in float64 whose base and adapter are no longer at their initial zeros."""
    source, target = Gaussian(mean=[0.0, 0.0]), Gaussian(mean=[1.0, -0.5])
    given = {"path": BrownianBridge(), "conditioning": SourceConditioning()} if bridge else {}
    torch.manual_seed(0)
    network = lambda **kinds: MLP(**kinds, **SMALL)
    base = compose(source, target, coupling=IndependentCoupling(), network=network, **given)[0].ema.double()
    reward = reward or QuadraticReward([0.5, -0.4], 0.3)
    made = FineTuneModule(
        source, target, base, adapter, method, reward, 0.8, torch.optim.SGD, None, Randomness(3), 0.9, rows, **more
    )
    generator = torch.Generator().manual_seed(1)
    for tuned in (made.field, made.ema):
        for p in tuned.adapter.double().parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator.manual_seed(p.numel()), dtype=p.dtype)
    return made


ADAPTERS = {
    "control": partial(ControlAdapter, network=partial(MLP, **SMALL)),
    "full": FullAdapter,
    "value": partial(ValueAdapter, network=partial(MLP, **SMALL)),
}


def pair():
    x0, x1 = torch.randn(2, N, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Pair(Sample(x0), Sample(x1))


def learnt(made):
    """What a collection and the loss of a step give: records, scalars, loss and gradients."""
    made.method.begin(0)
    rollout, facts = made.method.collect(
        made.ema.eval(), made.reward, made.strength, pair(), torch.Generator().manual_seed(5)
    )
    loss = made.method.loss(made.field.train(), [rollout], torch.Generator().manual_seed(7)).mean
    trained = [p for p in made.field.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
    assert any(bool(g.any()) for g in gradients)
    return [*rollout.tensors().values(), *facts.values(), loss.detach(), *gradients]


class Widest(nn.Module):
    """Remembers the most rows that a module was called with."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.most = inner, 0

    def forward(self, *inputs):
        self.most = max(self.most, len(inputs[0]))
        return self.inner(*inputs)


def watched(made):
    """The networks' first layers, which tell how many rows they were given."""
    found = []
    for part in [*made.field.modules(), *made.ema.modules()]:
        if isinstance(part, MLP):
            if not isinstance(part.first, Widest):
                part.first = Widest(part.first)
            found.append(part.first)
    return found


@pytest.mark.parametrize(
    ("make", "bridge"),
    [
        pytest.param(make, bridge, id=f"{name} {'bridge' if bridge else 'noise'}")
        for name, make in TUNINGS
        for bridge in (False, True)
        if name != "draft" or not bridge
    ],
)
def test_what_is_learnt_does_not_depend_on_the_rows_of_a_piece(make, bridge):
    check(make, ADAPTERS["value" if make is dict(TUNINGS)["value_matching"] else "full"], bridge)


@pytest.mark.parametrize("name", ["adjoint_matching", "draft", "refl", "tilt_matching"])
@pytest.mark.parametrize("adapter", ["control", "value"])
def test_what_an_adapter_learns_does_not_depend_on_the_rows_of_a_piece(adapter, name):
    check(dict(TUNINGS)[name], ADAPTERS[adapter])


def check(make, adapter, bridge=False):
    """The same from one evaluation and from pieces, of which none is larger than wanted."""
    whole, pieces = (tuning(make(), adapter, rows, bridge) for rows in (None, ROWS))
    first = watched(pieces)
    for a, b in zip(learnt(whole), learnt(pieces), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
    assert max(layer.most for layer in first) == ROWS


@pytest.mark.parametrize("bridge", [False, True], ids=["noise", "bridge"])
def test_the_lean_adjoint_is_transported_in_pieces(bridge):
    made = tuning(PathWeighted(STEPS(), late=0.4), FullAdapter, ROWS, bridge)
    base, chain = made.field.base, ConsistentDiscretisation(STEPS())
    condition = base.conditioning.sampling(pair().source, None)
    states = roll_out(chain, base, pair().source.x, condition, torch.Generator().manual_seed(0)).states
    terminal = torch.randn(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = watched(made)[0]
    layer.most = 0
    pieces = lean_adjoint(chain, base, states, condition, terminal)
    assert layer.most == ROWS
    set_piece_rows(base, None)
    torch.testing.assert_close(pieces, lean_adjoint(chain, base, states, condition, terminal), rtol=1e-12, atol=1e-12)
    assert layer.most == N


class Counting(Reward):
    """|x|²/2 and the number of points of every evaluation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x1, condition):
        self.seen.append(len(x1))
        return 0.5 * x1.square().sum(1) + (0 if condition.label is None else condition.label)


def test_a_reward_sees_a_piece_at_a_time_with_its_own_condition():
    reward, x = Counting(), pair().target.x
    label = Condition(torch.arange(N))
    wanted, slope = reward.value_and_gradient(x, label)
    assert reward.seen == [N]
    reward.piece_rows = ROWS
    value, gradient = reward.value_and_gradient(x, label)
    assert reward.seen[1:] == [7, 1]
    assert torch.equal(value, wanted) and torch.equal(gradient, slope) and torch.equal(gradient, x)
    assert torch.equal(reward.value(x, label), wanted)


@pytest.mark.parametrize(
    ("n", "rows", "sizes"), [(8, 3, [3, 3, 2]), (6, 3, [3, 3]), (2, 3, [2]), (5, None, [5]), (0, 3, [0])]
)
def test_pieces_cover_every_row_once_in_order(n, rows, sizes):
    cut = spans(n, rows)
    assert [at.stop - at.start for at in cut] == sizes
    assert [k for at in cut for k in range(at.start, at.stop)] == list(range(n))


def test_the_backward_pass_draws_the_dropout_of_the_forward_pass():
    weight = torch.ones(4, requires_grad=True)

    def dropped(x, t, condition):
        return nn.functional.dropout(x * weight, 0.5)

    torch.manual_seed(0)
    x = torch.rand(N, 4) + 1
    out = in_pieces(dropped, ROWS, x, torch.zeros(N), Condition(), random=True)
    out.sum().backward()
    torch.testing.assert_close(weight.grad, out.detach().sum(0))  # each entry that is kept counts 2x, in both passes
    assert 0 < int((out == 0).sum()) < out.numel()


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_below_one_are_refused(rows):
    with pytest.raises(FlowportError, match=rf"rows={rows} must be at least 1"):
        tuning(PathWeighted(STEPS(), late=0.4), FullAdapter, rows)


def test_watched_terms_of_a_reward_are_evaluated_in_pieces_too():
    source = Gaussian(mean=[0.0, 0.0])
    base = compose(source, source, coupling=IndependentCoupling(), network=partial(MLP, width=8, depth=1))[0].ema
    reward = SumReward({"a": LinearReward([1.0, 0.0]), "b": LinearReward([0.0, 1.0])}, {"a": 1.0, "b": 0.0})
    given = (PathWeighted(STEPS(), late=0.4), reward, 1.0, torch.optim.SGD, None, Randomness(0))
    FineTuneModule(source, source, base, FullAdapter, *given, rows=3)
    assert {term.piece_rows for term in (reward, *reward.term_rewards.values())} == {3}


BLOCKS = {
    "dit": (DiT, {"width": 16, "depth": 3}, (1, 8, 8)),
    "patch_unet": (PatchUNet, {"width": 8, "embedding": 16}, (1, 8, 8)),
    "set_transformer": (SetTransformer, {"width": 16, "depth": 3}, (3, 9)),
    "adm_unet": (ADMUNet, {"attention": (4,)}, (1, 8, 8)),
}


def kept(net, x, t):
    """Output, gradients, and bytes that the forward pass keeps beside weights."""
    sizes = {}

    def pack(value):
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = net(x, t, Condition())
    gradients = torch.autograd.grad(out.square().sum(), list(net.parameters()), allow_unused=True)
    return out, gradients, sum(sizes.values()) - sum(p.nbytes for p in net.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_checkpointing_gives_the_same_gradients_from_less_memory(name):
    kind, options, shape = BLOCKS[name]
    torch.manual_seed(0)
    plain = kind(shape, ConditionShape(), **options).double().train()
    for p in plain.parameters():
        if not bool(p.any()):
            nn.init.normal_(p, std=0.1)
    saving = deepcopy(plain)
    made = kind(shape, ConditionShape(), checkpointing=True, **options).double().train()
    made.load_state_dict(saving.state_dict())
    x, t = torch.randn(4, *shape, dtype=torch.float64), torch.rand(4)
    (a, slopes, before), (b, others, after) = (kept(net, x, t) for net in (plain, made))
    assert torch.equal(a, b)
    for one, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(one, other)
    assert after < 0.6 * before


def test_a_fine_tuning_turns_checkpointing_on_where_there_are_blocks():
    with pytest.raises(FlowportError, match=r"checkpointing=true finds no blocks.*rows alone"):
        tuning(PathWeighted(STEPS(), late=0.4), FullAdapter, None, checkpointing=True)
    source = Gaussian(event_shape=[1, 8, 8])
    torch.manual_seed(0)
    network = partial(PatchUNet, width=8, embedding=16)
    base = compose(source, source, coupling=IndependentCoupling(), network=network)[0].ema
    given = (PathWeighted(STEPS(), late=0.4), LinearReward([1.0] * 64), 1.0, torch.optim.SGD, None, Randomness(0))
    made = FineTuneModule(source, source, base, FullAdapter, *given, checkpointing=True)
    assert made.field.adapter.copy.network.checkpointing and not base.network.checkpointing


@pytest.mark.parametrize("adapter", ["control", "value"])
def test_a_step_in_pieces_holds_the_activations_of_a_piece(adapter):
    """Also where the adapter is itself a derivative, whose graph would be that of all rows."""
    torch.manual_seed(0)
    network, source = partial(MLP, width=64, depth=4), Gaussian(mean=[0.0, 0.0])
    base = compose(source, source, coupling=IndependentCoupling(), network=network)[0].ema
    kind = {"control": ControlAdapter, "value": ValueAdapter}[adapter]
    field, peaks = TiltedField(base, kind(base, (2,), ConditionShape(), network)), []
    x, t = torch.randn(512, 2), torch.rand(512)
    trained = [p for p in field.parameters() if p.requires_grad]
    for rows in (None, 16):
        set_piece_rows(field, rows)
        with LiveBytes() as live:
            loss = field.shift(x, t, Condition()).square().sum()
            torch.autograd.grad(loss, trained, allow_unused=True)
        peaks.append(live.peak - sum(p.nbytes for p in trained))
    assert peaks[1] < peaks[0] / 4
