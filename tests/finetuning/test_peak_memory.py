"""The peak of memory of a fine-tuning: measured by torch's profiler, and its estimate without data."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning import Trainer
from torch.profiler import ProfilerActivity, profile

from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian
from flowport.finetuning.adapter import ControlAdapter, FullAdapter, ValueAdapter
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import AdjointMatching, ValueMatching
from flowport.finetuning.peak_memory import COPIES, GIB, LiveBytes, PeakMemory, optimiser_bytes, peak_memory
from flowport.finetuning.trajectories import Trajectories
from flowport.network import MLP, PatchUNet
from flowport.randomness import Randomness
from flowport.reward import LinearReward, QuadraticReward, Reward
from flowport.sampling.grid import UniformGrid
from flowport.training import finetune_module
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Pair, Sample
from tests.benchmarks import tuning_memory
from tests.zoo import TUNINGS, named

SHAPE, STARTS, STEPS = (1, 16, 16), 64, 6
ADAM = partial(torch.optim.Adam, lr=1e-4)


UNET = partial(PatchUNet, width=16, patch=1, embedding=16)


def pictures(rows, trajectories=None, network=UNET):
    """Adjoint matching of a small network from 64 starts, so of 320 rows in a step of the optimiser."""
    source = Gaussian(event_shape=list(SHAPE))
    torch.manual_seed(0)
    base = compose(source, source, coupling=IndependentCoupling(), network=network)[0].ema
    method = AdjointMatching(ConsistentDiscretisation(UniformGrid(STEPS)))
    reward, given = LinearReward([0.1] * 256), (Randomness(0), 0.99)
    module = FineTuneModule(
        source, source, base, FullAdapter, method, reward, 1.0, ADAM, None, *given, rows, trajectories=trajectories
    )
    x = torch.randn(STARTS, *SHAPE, generator=torch.Generator().manual_seed(1))
    return module, Pair(Sample(x), Sample(x))


SMALL = partial(MLP, width=16, depth=1)


def round_of(module, pair):
    """A collection, and the gradient of a step, as the training makes them."""
    rollout, _ = module.method.collect(
        module.ema.eval(), module.reward, module.strength, pair, torch.Generator().manual_seed(0)
    )
    rollout = module.trajectories.stored(rollout, torch.device("cpu"))
    module.method.loss(module.field.train(), [rollout], torch.Generator().manual_seed(0)).mean.backward()


def measured(module, pair):
    """The largest number of bytes that a round holds above what was there before, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        round_of(module, pair)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def estimated(module, pair):
    return peak_memory(
        module.field.train(), module.ema, module.reward, module.method, pair, ADAM, module.rows, module.trajectories
    )


@pytest.fixture(scope="module")
def peaks():
    return {rows: measured(*pictures(rows)) for rows in (8, 64)}


@pytest.mark.slow
def test_the_peak_of_8_rows_is_less_than_a_quarter_of_that_of_64(peaks):
    assert peaks[8] < peaks[64] / 4


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 64])
def test_the_estimate_is_near_the_peak_that_is_measured(peaks, rows):
    found = estimated(*pictures(rows))
    before = sum(found.parts[name] for name in ("weights", "reward", "moving average", "optimiser"))
    assert found.unknown == []
    assert found.total - before == pytest.approx(peaks[rows], rel=0.3)


@pytest.mark.parametrize(("share", "graphs"), [(0.5, False), (0.2, False), (0.2, True), (0.05, True)])
def test_rows_are_halved_until_all_phases_fit_also_with_the_graphs_of_their_pieces(share, graphs, monkeypatch):
    module, pair = pictures(None)
    module.trainer = Trainer(accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False)
    monkeypatch.setattr(finetune_module, "peak_memory", lambda *given: peak_memory(*given[:9], graphs, *given[10:]))
    whole = module._peak(pair).total
    monkeypatch.setattr(finetune_module, "device_memory", lambda device: int(share * whole))
    module._say_peak(pair)
    assert module.rows >= 1 and module._peak(pair).total <= 0.9 * share * whole
    taken = module.rows
    module._take_rows(2 * taken + 1)  # at most what was halved
    assert module._peak(pair).total > 0.9 * share * whole, "the rows before did not fit"
    assert module.field.base.piece_rows == module.ema.base.piece_rows == module.reward.piece_rows == 2 * taken + 1


def test_live_storages_are_counted_until_they_are_freed():
    weights = torch.zeros(50)
    with LiveBytes() as live:
        seen = weights.view(5, 10).t()
        assert seen.shape == (10, 5) and live.now == 0  # weights were there before
        x = torch.zeros(1000)
        y = (x + 1).view(10, 100).t()  # a view has no storage of its own
        assert live.now == 8000
        y.add_(1)
        del x
        assert live.now == 4000
        del y
        assert (live.now, live.peak) == (0, 8000)


def test_nothing_is_allocated_and_nothing_is_changed_by_an_estimate():
    module, pair = pictures(8, network=SMALL)
    before = deepcopy(module.state_dict())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        estimate = estimated(module, pair)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert sum(max(e.nbytes(), 0) for e in events) < estimate.parts["activations"] / 2
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("make", "moments"), [(ADAM, 2), (partial(torch.optim.SGD, lr=1.0), 0)])
def test_moments_are_those_of_the_optimiser(make, moments):
    assert optimiser_bytes(make, 4000) == 4000 * moments


@pytest.mark.parametrize(("collections", "kept"), [(None, 5), (3, 3), (1, 1)])
def test_results_are_counted_of_the_collections_that_there_are_and_joined_in_a_step(collections, kept):
    """64 starts and ends of 256 float32 numbers a collection; a loss draws from a copy of all, if there are several."""
    source = Gaussian(event_shape=list(SHAPE))
    base = compose(source, source, coupling=IndependentCoupling(), network=SMALL)[0].ema
    method, reward = ValueMatching(UniformGrid(STEPS), batch=512, replay_size=5), LinearReward([0.1] * 256)
    adapter = partial(ValueAdapter, network=SMALL)
    module = FineTuneModule(source, source, base, adapter, method, reward, 1.0, ADAM, None, Randomness(0))
    pair = Pair(Sample(torch.zeros(STARTS, *SHAPE)), Sample(torch.zeros(STARTS, *SHAPE)))
    fields = (module.field, module.ema)
    found = peak_memory(*fields, reward, method, pair, ADAM, collections=collections)
    each = 2 * 64 * 256 * 4
    assert found.phase == "learning" and found.parts["results"] == kept * each
    assert found.parts["points"] == COPIES * 512 * 256 * 4 + (kept * each if kept > 1 else 0)


@pytest.mark.parametrize("make", **named(TUNINGS))
def test_a_method_states_what_it_keeps_and_what_it_evaluates(make):
    method, source = make(), Gaussian(mean=[0.0, 0.0])
    network = partial(MLP, width=8, depth=1)
    base = compose(source, source, coupling=IndependentCoupling(), network=network)[0].ema
    adapter = partial(ValueAdapter if isinstance(method, ValueMatching) else ControlAdapter, network=network)
    reward = QuadraticReward([0.5, -0.4], 0.3)
    module = FineTuneModule(source, source, base, adapter, method, reward, 1.0, ADAM, None, Randomness(0))
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    rollout, _ = method.collect(module.ema, reward, 1.0, Pair(Sample(x), Sample(x)), torch.Generator().manual_seed(0))
    size, seen = method.footprint(8, False), []
    kept = sum(len(v) for v in rollout.record.values() if v.shape[1:] == rollout.end.shape)
    trained = module.field.adapter.network
    trained.register_forward_hook(lambda part, given, out: seen.append(len(given[0])))
    method.loss(module.field, [rollout], torch.Generator().manual_seed(0)).mean.backward()
    assert kept <= size.states + size.adjoints <= kept + (method.grid.steps if dict(TUNINGS)["refl"] is make else 1)
    if make is not dict(TUNINGS)["draft"]:  # which evaluates its points once for every differentiated step, and again
        assert sum(seen) <= size.points
    assert max(seen) <= size.points
    assert bool(size.adjoints) == ("adjoints" in rollout.record)
    t = torch.full((8,), 0.5)
    assert method.differentiated(module.field, x, t, rollout.condition(False)[:8]).requires_grad
    assert len(rollout.end) == size.paths or dict(TUNINGS)["best_of"] is make


@pytest.mark.parametrize(("dtype", "device", "share"), [(None, None, 1), ("bfloat16", None, 0.5), (None, "cpu", 0)])
def test_trajectories_of_less_precision_take_less(dtype, device, share):
    found = estimated(*pictures(8, Trajectories(dtype, device), SMALL))
    assert found.parts["states"] == found.parts["adjoints"] == share * (STEPS - 1) * STARTS * 256 * 4


PARTS = {"weights": 3 * GIB, "activations": 8 * GIB}


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (None, r"GiB of memory at most, while learning \(weights 3, activations 8\)$"),
        (11, r"\(weights 3, activations 8\)$"),
        (7, r"more than the 7 GiB of this device: write rows=32"),
        (2, r"more than the 2 GiB of this device: lower starts"),
    ],
)
def test_the_sentence_says_what_to_lower_where_the_device_has_less(limit, advice):
    found = PeakMemory("learning", PARTS, 64)
    said = found.sentence(None if limit is None else limit * GIB)
    with pytest.raises(AssertionError, match=advice):  # matched as a whole line
        raise AssertionError(said)


class Reading(Reward):
    """A reward whose operations depend on the numbers of the points."""

    def forward(self, x1, condition):
        return x1.flatten(1).sum(1) * (2.0 if float(x1[0].sum()) > 0 else 1.0)


def test_what_cannot_be_counted_is_named():
    module, pair = pictures(8, network=SMALL)
    found = peak_memory(module.field, module.ema, Reading(), module.method, pair, ADAM, 8)
    assert found.unknown == ["reward"]
    assert "without the activations of reward, which are not known" in found.sentence()


@pytest.mark.slow
def test_a_network_of_113_million_weights_fits_40_gib():
    found, base = tuning_memory.estimated(8), tuning_memory.tuning(8)[0].base
    assert sum(p.numel() for p in base.parameters()) == pytest.approx(113e6, abs=5e6)
    assert found.total < 40 * GIB
    row = found.parts["activations"] / 8
    assert 100e6 < row < 400e6  # some hundred feature maps of 128 channels of 64 x 64, of 2 MB each
    fixed = found.total - found.parts["activations"]
    assert fixed + 128 * row < 40 * GIB < fixed + 64 * 19 * row  # all rows of a step at once do not


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("rows", [8, 32])
def test_on_cuda_the_peak_is_near_its_estimate_and_fits_40_gib(rows):
    found, peak = tuning_memory.estimated(rows).total, tuning_memory.measured(rows)
    assert peak < 40 * GIB
    assert found == pytest.approx(peak, rel=0.4)  # workspaces of cuDNN are not counted
