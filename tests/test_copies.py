"""No batch, loss, translation or roll-out copies a constant to the device anew, and only what is listed reads it.

Everything runs on a second device that has no numbers (``tests.second_device``), so that a machine without a GPU sees
both. A copy by ``to_device`` is asynchronous and carries data: items, their numbers, times of a grid.
"""

from functools import partial

import pytest
import torch

from flowport.conditioning import TargetLabelConditioning
from flowport.cost import SlicedCost
from flowport.coupling import AlignedCoupling, ExactCoupling, IndependentCoupling
from flowport.coupling.base import Coupling
from flowport.data.pairing import UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import (
    Box,
    Capsule,
    Checkerboard,
    EightGaussians,
    Ellipsoid,
    Gaussian,
    Knot,
    Moons,
    SCurve,
    Sphere,
    Superquadric,
    Torus,
)
from flowport.errors import FlowportError
from flowport.field.guidance import ClassifierFreeGuidance, Unguided
from flowport.finetuning.adapter import ControlAdapter, ValueAdapter
from flowport.modality import ComplexSTFT, Image
from flowport.network import MLP
from flowport.objective import FlowMatching, ShortcutObjective
from flowport.objective.time_sampler import UniformTimeSampler
from flowport.path import LinearPath, TrigonometricPath
from flowport.prediction import BridgePrediction
from flowport.randomness import Randomness
from flowport.reward import LinearReward
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import Dopri5, Euler, FeynmanKac, ShortcutSolver
from flowport.sampling.volatility import MemorylessVolatility, ZeroVolatility
from flowport.training.compose import compose
from flowport.training.finetune_module import tilted
from tests.second_device import MetaGenerator, copies, second_device
from tests.test_syncs import PAIRS
from tests.zoo import COUPLINGS, DISTRIBUTIONS, PATHS, PREDICTIONS, SOLVERS, TIME_SAMPLERS, TUNINGS, WEIGHTINGS, named

SOLIDS = (Ellipsoid, Torus, Knot, Superquadric, Box, Sphere, Capsule)


def moved(source, target, n=8, coupling=None, block=1):
    pairing = UnpairedPairing(source, target).to("meta")
    return PairStream(pairing, coupling or IndependentCoupling(), Randomness(0), n, block=block)


def drawn(source, target):
    with second_device():
        return moved(source, target).at(0)


def test_the_watch_sees_what_it_is_for():
    device, held = torch.device("meta"), torch.arange(3.0)
    for copy in (
        lambda: torch.tensor([1.0, 0.5], device=device),
        lambda: torch.as_tensor(0.5, device=device),
        lambda: torch.zeros(2, device=device).new_tensor([1.0, 2.0]),
        lambda: held.to(device),
        lambda: torch.zeros(3, device=device).copy_(held),
    ):
        with copies() as seen:
            copy()
        assert seen
    for read in (lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 1], lambda x: x.cpu(), bool):
        with copies(), pytest.raises((RuntimeError, NotImplementedError)):
            read(torch.zeros(1, device=device))
    answered: list[str] = []
    with copies(answered):
        assert bool(torch.zeros(1, device=device).isfinite().all())
    assert answered == ["test_the_watch_sees_what_it_is_for"]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_batch_copies_no_constant_and_reads_nothing(kind, block):
    with second_device():
        stream = moved(*PAIRS[kind][0](), block=block)
        stream.at(0)  # makes what later ones reuse
    with copies() as seen:
        stream.at(block)
    assert seen == []


@pytest.mark.parametrize("make", [*(m for _, m in DISTRIBUTIONS), Checkerboard, SCurve, *SOLIDS])
def test_a_law_moves_once(make):
    law = make().to("meta")
    with copies() as seen:
        law.items(0, 8, Randomness(0))
    assert seen == []


@pytest.mark.parametrize(
    ("modality", "raw"),
    [
        (Image(shift=1.0, rotation=9.0, flip=True, channels=1, dequantise=True), torch.zeros(2, 3, 8, 8).byte()),
        (ComplexSTFT(), torch.zeros(2, 1024).short()),
    ],
)
def test_a_modality_moves_once(modality, raw):
    there, raw = modality.to("meta"), raw.to("meta")
    with copies() as seen:
        there.encode(raw, MetaGenerator())
    assert seen == []


@pytest.mark.parametrize("make", **named(TIME_SAMPLERS))
def test_times_are_drawn_without_a_copy(make):
    sampler = make()
    if isinstance(sampler, torch.nn.Module):
        sampler.to("meta")
    with copies() as seen:
        t = sampler(8, MetaGenerator())
        sampler.density(t)
        sampler.learn(t, t)
    assert seen == []


def trained(**parts):
    """A step of a flow on the second device, after one that makes what later steps reuse."""
    flow, data = compose(Gaussian(), Moons(), coupling=IndependentCoupling(), **parts)
    flow.to("meta")
    pair = drawn(data.pairing.source, data.pairing.target)
    with second_device():
        flow.objective.loss(flow.field, pair, MetaGenerator())
    with copies() as seen:
        flow.objective.loss(flow.field, pair, MetaGenerator()).mean.backward()
    return seen


@pytest.mark.parametrize("prediction", **named(PREDICTIONS))
@pytest.mark.parametrize("path", **named(PATHS))
def test_a_loss_copies_no_constant_and_reads_nothing(path, prediction):
    try:
        seen = trained(path=path(), prediction=prediction())
    except FlowportError:
        pytest.skip("the path does not have this prediction")
    assert seen == []


@pytest.mark.parametrize("weighting", **named(WEIGHTINGS))
def test_a_weighting_copies_no_constant_and_reads_nothing(weighting):
    objective = FlowMatching(UniformTimeSampler(), weighting())
    assert trained(path=LinearPath(), objective=objective, conditioning=TargetLabelConditioning(dropout=0.1)) == []


def test_a_shortcut_loss_copies_no_constant_and_reads_nothing():
    assert trained(objective=ShortcutObjective(UniformTimeSampler())) == []


@pytest.mark.parametrize(
    ("coupling", "laws", "reads"),
    [
        (ExactCoupling(), PAIRS["plane"][0], 1),
        (ExactCoupling(), PAIRS["images"][0], 1),
        (ExactCoupling(SlicedCost()), PAIRS["clouds"][0], 1),
        (AlignedCoupling(), PAIRS["clouds"][0], 1),
        (AlignedCoupling(ExactCoupling(SlicedCost())), PAIRS["clouds"][0], 2),
        (AlignedCoupling(swaps=3), PAIRS["clouds"][0], 0),
        (AlignedCoupling(rotate=True, swaps=3), PAIRS["clouds"][0], 0),
        (AlignedCoupling(rotate=True), PAIRS["clouds"][0], 5),  # a matching after each rotation
    ],
)
def test_an_exact_coupling_reads_each_cost_once(coupling: Coupling, laws, reads, monkeypatch):
    """The other couplings read labels, scales or errors: see ``READING``."""
    copied = []

    def to_host(x):
        copied.append(x.shape)
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)

    monkeypatch.setattr("flowport.coupling.assignment.to_host", to_host)
    monkeypatch.setattr("flowport.cost.earth_mover.to_host", to_host)
    with second_device():
        stream = moved(*laws(), coupling=coupling)
        stream.at(0)
    copied.clear()
    with copies() as seen:
        stream.at(1)
    assert (seen, len(copied)) == ([], reads)


READING = {
    "class_conditional": "the rows of each class are found by their labels",
    "condition_aware": "classes as above; of values the weight is an order statistic",
    "partial": "POT solves it on the host",
    "sinkhorn": "iterations end where the error is small; it is read every tenth",
    "unbalanced": "iterations end where the error is small; it is read every tenth",
}
"""Couplings that read the device more often than once, and why. A background thread makes their batches."""


def test_the_other_couplings_are_known_to_read():
    by_name = dict(COUPLINGS)
    assert set(by_name) - set(READING) == {"independent", "exact", "aligned", "aligned_rotating"}
    pair = drawn(EightGaussians(), EightGaussians())
    for name in READING:
        with copies(), pytest.raises((RuntimeError, NotImplementedError)):
            by_name[name]()(pair, MetaGenerator())


def translated(solver, guidance=None, reads=None, **law):
    flow, data = compose(
        Gaussian(),
        Moons(),
        coupling=IndependentCoupling(),
        path=TrigonometricPath(),
        conditioning=TargetLabelConditioning(dropout=0.1),
        **law,
    )
    flow.to("meta")
    pair = drawn(data.pairing.source, data.pairing.target)
    volatility = MemorylessVolatility() if solver.stochastic and not solver.needs_score else ZeroVolatility()
    translator = Sampler(solver, UniformGrid(4), volatility, guidance or Unguided()).translator(flow.ema)
    with copies(reads) as seen:
        translator.forward(pair.source, MetaGenerator(), pair.target.label, all_states=True)
    return seen


UNTRANSLATED = {
    "dopri5": "it accepts or refuses a step by its error",
    "shortcut": "its flow is a shortcut model, as below",
    "feynman_kac": "it checks its reward at every step, as below",
}


@pytest.mark.parametrize("make", **named([s for s in SOLVERS if s[0] not in UNTRANSLATED]))
def test_a_translation_copies_no_constant_and_reads_nothing(make):
    assert translated(make()) == []


def test_a_translation_by_shortcuts_reads_nothing_and_one_by_errors_does():
    assert translated(ShortcutSolver(), objective=ShortcutObjective(UniformTimeSampler())) == []
    with pytest.raises((RuntimeError, NotImplementedError)):
        translated(Dopri5())


@pytest.mark.parametrize("gradient", [False, True])
def test_particles_read_only_whether_their_reward_is_finite(gradient):
    reads: list[str] = []
    assert (
        translated(FeynmanKac(LinearReward([1.0, 0.5]).to("meta"), particles=4, gradient=gradient), reads=reads) == []
    )
    assert set(reads) == {"_checked", "_differentiated"} if gradient else {"_checked"}


def test_a_guided_translation_reads_nothing():
    assert translated(Euler(), partial(ClassifierFreeGuidance, scale=2.0)) == []


CHECKS = ["finite", "_checked", "_differentiated"]
"""What a collection reads: whether paths, rewards and gradients are finite, once each in so many steps."""


LOSSES_THAT_READ = dict.fromkeys(("draft", "refl"), ("_checked", "_differentiated"))
"""Their losses are the reward itself, of which it is checked in each step whether it and its gradient are finite."""


@pytest.mark.parametrize(("name", "make"), TUNINGS, ids=[name for name, _ in TUNINGS])
def test_a_roll_out_reads_only_whether_it_is_finite_and_a_loss_nothing(name, make):
    method, reward = make(), LinearReward([1.0, 0.5])
    flow, data = compose(Gaussian(), Moons(), coupling=IndependentCoupling(), path=LinearPath())
    adapter = partial(ValueAdapter if name == "value_matching" else ControlAdapter, network=MLP)
    method.accept(flow.ema, reward)
    field = tilted(flow.ema, adapter, flow.source, flow.target).to("meta")
    reward.to("meta")
    pair = drawn(data.pairing.source, data.pairing.target)
    method.begin(0)
    reads: list[str] = []
    with copies(reads) as seen:
        rollout, _ = method.collect(field, reward, 1.0, pair, MetaGenerator())
    assert seen == [] and set(reads) <= set(CHECKS) and len(reads) <= 5
    reads.clear()
    with copies(reads) as seen:
        method.loss(field, [rollout], MetaGenerator()).mean.backward()
    assert seen == [] and set(reads) == set(LOSSES_THAT_READ.get(name, ()))


def test_two_heads_are_covered():
    assert trained(path=LinearPath(noise=0.4), prediction=BridgePrediction()) == []
