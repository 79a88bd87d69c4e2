"""Every tuning objective through Lightning: bits of the base, resume equal to unbroken, finite losses."""

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch

from flowport.conditioning import SourceConditioning
from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian, Mixture
from flowport.errors import FlowportError
from flowport.finetuning.adapter import FullAdapter, ValueAdapter
from flowport.finetuning.method import PathWeighted, TiltMatching, ValueMatching
from flowport.finetuning.trajectories import Trajectories
from flowport.network import MLP
from flowport.network.replay import start_replay
from flowport.path import BrownianBridge
from flowport.randomness import Randomness
from flowport.reward import LinearReward
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from tests import runs
from tests.network.graphs import Graphs
from tests.zoo import STEPS, TUNINGS, named

SMALL = {"width": 8, "depth": 1}


def flow(bridge=False):
    """An untrained base and its data."""
    source, target = Gaussian(mean=[0.0, 0.0]), Mixture([1, 1], [[-1.5, 0], [1, 1]], [0.3, 0.2])
    more = {"path": BrownianBridge(), "conditioning": SourceConditioning()} if bridge else {}
    return compose(
        source, target, coupling=IndependentCoupling(), network=lambda **given: MLP(**given, **SMALL), **more
    )


def module(method, base, **more):
    adapter = partial(ValueAdapter, network=partial(MLP, **SMALL)) if isinstance(method, ValueMatching) else FullAdapter
    return FineTuneModule(
        base.source,
        base.target,
        base.ema,
        adapter,
        method,
        LinearReward([0.5, -0.4]),
        0.8,
        lambda parameters: torch.optim.Adam(parameters, 1e-2),
        None,
        Randomness(3),
        0.9,
        **more,
    )


def trained(make, steps, folder: Path, bridge=False, resume=None, **more):
    base, data = flow(bridge)
    tuned = module(make(), base, **more)
    data.batch = 8
    before = {k: v.clone() for k, v in base.ema.state_dict().items()}
    trainer = lightning.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(tuned, data, ckpt_path=resume)
    tuned.check_losses()
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    assert runs.equal(base.ema.state_dict(), before), "the base was trained"
    return tuned


def learnt(tuned):
    return {k: v for k, v in tuned.state_dict().items() if ".adapter." in k}


@pytest.mark.parametrize("make", **named(TUNINGS))
@pytest.mark.parametrize("broken", [2, 3], ids=["between collections", "within one"])
def test_a_resumed_tuning_equals_the_unbroken_one(make, broken, tmp_path):
    unbroken = trained(make, 5, tmp_path)
    fresh = learnt(module(make(), flow()[0]))
    assert not runs.equal(learnt(unbroken), fresh), "nothing was learnt"
    trained(make, broken, tmp_path)
    again = trained(make, 5, tmp_path, resume=tmp_path / f"{broken}.ckpt")
    assert runs.equal(again.state_dict(), unbroken.state_dict())


@pytest.mark.parametrize("make", **named(TUNINGS))
def test_a_tuning_whose_networks_are_replayed_is_the_same(make, tmp_path, monkeypatch):
    plain, graphs = trained(make, 4, tmp_path), Graphs()
    monkeypatch.setattr("flowport.network.replay.AFTER", 3)
    monkeypatch.setattr("flowport.training.finetune_module.start_replay", partial(start_replay, recording=graphs))
    assert runs.equal(trained(make, 4, tmp_path).state_dict(), plain.state_dict())
    assert graphs.replays > 0


PIECES = {"rows": 3, "trajectories": Trajectories("bfloat16", "cpu")}


@pytest.mark.parametrize("name", ["path_weighted_adjoint", "adjoint_matching"])
def test_a_tuning_in_pieces_resumes_exactly_and_is_replayed_in_two_sizes(name, tmp_path, monkeypatch):
    make = dict(TUNINGS)[name]
    unbroken = trained(make, 5, tmp_path, **PIECES)
    trained(make, 3, tmp_path, **PIECES)
    again = trained(make, 5, tmp_path, resume=tmp_path / "3.ckpt", **PIECES)
    assert runs.equal(again.state_dict(), unbroken.state_dict())
    assert unbroken.replay[-1]["states"].dtype == torch.bfloat16
    graphs = Graphs()
    monkeypatch.setattr("flowport.network.replay.AFTER", 3)
    monkeypatch.setattr("flowport.training.finetune_module.start_replay", partial(start_replay, recording=graphs))
    assert runs.equal(trained(make, 5, tmp_path, **PIECES).state_dict(), unbroken.state_dict())
    assert graphs.replays > 0
    calls = 4  # the base along paths, in the loss, and with its derivative; and the moving average
    assert graphs.made <= 2 * calls  # each in pieces of 3 rows, and in a last piece that is smaller


@pytest.mark.parametrize("make", **named([t for t in TUNINGS if t[0] != "draft"]))
def test_every_method_that_can_tunes_a_bridge_given_its_start(make, tmp_path):
    assert not runs.equal(learnt(trained(make, 2, tmp_path, bridge=True)), learnt(module(make(), flow(True)[0])))


def test_draft_refuses_a_bridge_whose_ode_reaches_the_mean_alone():
    with pytest.raises(FlowportError, match=r"method=draft differentiates the ODE.*use adjoint_matching"):
        module(dict(TUNINGS)["draft"](), flow(True)[0])


class Step(LinearReward.__mro__[1]):
    """A reward without a gradient."""

    differentiable = False

    def forward(self, x1, condition):
        return (x1[:, 0] > 0).to(x1.dtype)


@pytest.mark.parametrize("make", **named(TUNINGS))
def test_only_methods_that_need_no_gradient_take_a_reward_without_one(make):
    base, method = flow()[0].ema, make()
    if method.needs_gradient:
        with pytest.raises(FlowportError, match="needs the reward's gradient"):
            method.accept(base, Step())
    else:
        method.accept(base, Step())


def test_tilt_matching_counts_its_stages_by_the_number_of_the_batch(tmp_path):
    tuned = trained(lambda: TiltMatching(STEPS(), stages=3, noisings=4, batch=8, steps_per_rollout=2), 5, tmp_path)
    assert float(tuned.replay[-1]["scale"]) == pytest.approx(1.0)
    early = trained(lambda: TiltMatching(STEPS(), stages=3, noisings=4, batch=8, steps_per_rollout=2), 4, tmp_path)
    assert float(early.replay[-1]["scale"]) == pytest.approx(2 / 3)


def test_older_collections_of_the_replay_hold_results_and_no_paths(tmp_path):
    tuned = trained(lambda: PathWeighted(STEPS(), late=0.5, batch=8, steps_per_rollout=2, replay_size=3), 5, tmp_path)
    assert [set(rollout.record) for rollout in tuned.replay][:-1] == [set(), set()]
    assert {"states", "adjoints", "scale"} <= set(tuned.replay[-1].record)
