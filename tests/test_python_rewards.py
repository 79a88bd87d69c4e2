"""Fine-tuning in two lines of Python: what may be a reward, and what is known of it afterwards."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowport as fp
from flowport.api.piloting import settled
from flowport.api.tuning import RESULTS, reward_of
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.finetuning.method import PathWeighted
from flowport.finetuning.pilot import Signals
from flowport.modality import FloatImage, Plane
from flowport.network import Network
from flowport.randomness import Randomness
from flowport.reward import FromFileReward, LinearReward, PlainReward, QuadraticReward, SumReward
from flowport.reward.base import ModalityReward
from flowport.types import Condition

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {"steps": 3, "starts": 16, "progress": False, "device": "cpu"}


def abscissa(x: Tensor) -> Tensor:
    return x[:, 0]


class Height(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1]


@pytest.fixture(scope="module")
def noise() -> fp.Flow:
    return fp.fit(fp.Gaussian(2), X.repeat(8, 1), steps=2, progress=False, device="cpu")


def value(word: Any) -> Tensor:
    return reward_of(word, None).value(X, Condition())


def test_whatever_gives_a_number_for_a_point_is_a_reward(tmp_path: Path) -> None:
    torch.jit.script(Height()).save(str(tmp_path / "judge.pt"))
    (tmp_path / "own.py").write_text("def far(x):\n    return x.square().sum(1)\n")
    assert isinstance(reward_of(abscissa, None), PlainReward) and torch.equal(value(abscissa), X[:, 0])
    assert torch.equal(value(Height()), X[:, 1])
    assert isinstance(reward_of(tmp_path / "judge.pt", None), FromFileReward)
    assert torch.equal(value(str(tmp_path / "judge.pt")), X[:, 1])
    assert torch.equal(value(f"{tmp_path}/own.py:far"), X.square().sum(1))
    assert torch.equal(value(Height), X[:, 1]), "a class that needs nothing is built"
    kept = LinearReward([1.0, 2.0])
    assert reward_of(kept, None) is kept


def test_several_have_names_and_weights() -> None:
    both = reward_of([abscissa, (Height(), 0.0), (abscissa, -2.0)], None)
    assert isinstance(both, SumReward)
    assert both.term_weights == {"abscissa": 1.0, "height": 0.0, "abscissa_2": -2.0}
    torch.testing.assert_close(both.value(X, Condition()), -X[:, 0])
    named = reward_of({"left": (abscissa, -1.0), "up": Height()}, None)
    torch.testing.assert_close(named.value(X, Condition()), X[:, 1] - X[:, 0])
    torch.testing.assert_close(value((abscissa, 3.0)), 3 * X[:, 0])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("nothing", "reward=nothing does not exist: choose .*, or package.module.Name, file.py:Name"),
        ("linear", r"reward=linear needs c: write LinearReward\(c=…\)"),
        ("legibility", "reads a classifier of the target's classes, and this flow's target has none"),
        ("judge.pt", "judge.pt is not a file"),
        (3, "is int 3: give a function"),
    ],
)
def test_what_is_no_reward_is_refused_in_a_sentence(word: Any, sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence):
        reward_of(word, None)


def test_the_pilot_knows_whether_a_function_has_a_gradient(noise: fp.Flow) -> None:
    sides = fp.Gaussian(2), fp.Gaussian(2)
    for function, late in ((abscissa, 0.8), (lambda x: x.numpy()[:, 0], None)):
        reward = reward_of(function, None)
        reward.check(*sides)
        for word in ("auto", None):
            chosen, _ = settled(noise.field, sides, reward, 0.3, word, None, 64, Randomness(0))
            assert isinstance(chosen, PathWeighted) and chosen.late == late


def test_a_tuned_flow_knows_its_rewards(noise: fp.Flow) -> None:
    tuned = fp.finetune(noise, {"x": abscissa, "y": (lambda x: x.numpy()[:, 1], 0.0)}, strength=2.0, **QUICK)
    found = tuned.rewards
    assert found["before"] == found["x_before"] and found["gain_se"] == found["x_gain_se"]
    for name in ("", "x_", "y_"):
        assert found[f"{name}gain"] == pytest.approx(found[f"{name}after"] - found[f"{name}before"], abs=1e-6)
        assert found[f"{name}before_se"] > 0
    for unknown in ("rewards", "certificate"):
        with pytest.raises(FlowportError, match="this flow knows no reward"):
            getattr(noise, unknown)


def test_a_tuned_flow_has_a_certificate(noise: fp.Flow) -> None:
    """From noise 512 paths of either chain and no word of starts; the weak tilt of a trained flow is near its base."""
    tuned = fp.finetune(noise, abscissa, strength=0.5, method="path_weighted", **QUICK)
    found = tuned.certificate
    assert found is tuned.certificate and found.values["paths"] == 1024
    assert not {"memory"} & {*found.values, *found.withheld}
    elbo = found.values["scaled_reward"] - found.values["kl_to_base"]
    assert found.values["elbo"] == pytest.approx(elbo, abs=1e-6)
    low, room = found.values["base_reward"], 4 * found.errors["base_reward"] + 0.1
    assert tuned.rewards["before"] == pytest.approx(low, abs=room)  # of the ODE: but for its steps the same results
    assert found.sentence.startswith("KL(tuned‖tilt) ")


def test_flow_and_reward_of_the_caller_stay_as_they_are(noise: fp.Flow) -> None:
    reward = LinearReward([1.0, 0.0])
    fp.finetune(noise, reward, strength=0.5, method="path_weighted", rows=4, **QUICK)
    assert reward.piece_rows is None
    assert all(getattr(part, "piece_rows", None) is None for part in noise.field.modules())


class Narrow(nn.Module):
    """A judge that notes the most rows it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self.scale = 0, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, len(x))
        return self.scale * x


@pytest.fixture(scope="module")
def bridge() -> fp.Flow:
    return fp.fit(
        X.repeat(8, 1) - 2,
        X.repeat(8, 1),
        path="brownian_bridge",
        coupling="independent",
        conditioning="source",
        steps=2,
        progress=False,
        device="cpu",
    )


def test_a_tuned_bridge_knows_its_rewards(bridge: fp.Flow) -> None:
    tuned = fp.finetune(bridge, abscissa, strength=0.5, method="path_weighted", **QUICK)
    found = tuned.rewards
    assert found["before_se"] > 0 and found["gain"] == pytest.approx(found["after"] - found["before"], abs=1e-6)
    assert {"memory"} & {*tuned.certificate.values, *tuned.certificate.withheld}


class Seen(LinearReward):
    """A reward that keeps the target it was checked for."""

    def check(self, source: Distribution, target: Distribution) -> None:
        super().check(source, target)
        TARGETS.append(target)


TARGETS: list[Distribution] = []


def test_a_loaded_flow_is_judged_on_its_own_results(tmp_path: Path) -> None:
    flow = fp.fit(fp.Gaussian(2), X.repeat(8, 1), steps=2, progress=False, device="cpu")
    flow.save(tmp_path / "flow")
    loaded = fp.load(tmp_path / "flow")
    loaded.modality = FloatImage()
    TARGETS.clear()
    tuned = fp.finetune(loaded, Seen([1.0, 0.0]), strength=0.5, method="path_weighted", **QUICK)
    x = TARGETS[0].sample(4, torch.Generator().manual_seed(0)).x
    every = loaded.sample(RESULTS, steps=20)
    assert all(bool(torch.isclose(point, every, atol=1e-5).all(1).any()) for point in x)
    assert TARGETS[0].modality is loaded.modality and tuned.modality is loaded.modality and tuned.target is None
    assert tuned.rewards["before_se"] > 0


def test_no_mass_is_stated_of_a_target_that_is_not_known(tmp_path: Path, noise: fp.Flow) -> None:
    noise.save(tmp_path / "flow")
    outward = QuadraticReward([0.0, 0.0], [[-2.0, 0.0], [0.0, -2.0]])  # none on N(0, I) from 0.5
    fp.finetune(fp.load(tmp_path / "flow"), outward, strength=0.51, method="path_weighted", **QUICK)


def test_a_loaded_flow_that_is_told_a_class_is_refused(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(X.repeat(8, 1), torch.arange(40) % 2)
    flow = fp.fit(fp.Gaussian(2), data, conditioning="target_label", steps=2, progress=False, device="cpu")
    flow.save(tmp_path / "flow")
    with pytest.raises(FlowportError, match="does not hold its target's labels"):
        fp.finetune(fp.load(tmp_path / "flow"), abscissa, **QUICK)


def rows_seen(flow: fp.Flow) -> list[int]:
    """Filled with the rows of every evaluation of the flow's networks."""
    seen = list[int]()
    for part in flow.field.modules():
        if isinstance(part, Network):
            part.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


@pytest.mark.parametrize("bridge", [False, True])
def test_no_network_holds_more_rows_than_were_said(bridge: bool) -> None:
    """In the probe, with its rollouts and adjoints, and in the comparison afterwards."""
    x = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))
    options = {"path": "brownian_bridge", "coupling": "independent", "conditioning": "source"} if bridge else {}
    flow = fp.fit(x - 1 if bridge else fp.Gaussian(80), x, steps=1, progress=False, device="cpu", **options)
    assert flow.source is not None and flow.target is not None
    seen, judge = rows_seen(flow), Narrow()
    reward = PlainReward(lambda x: judge(x)[:, 0])
    settled(flow.field, (flow.source, flow.target), reward, 0.3, "auto", None, 64, Randomness(0), rows=8)
    assert max(seen) == 8 and judge.most == 8
    assert reward.piece_rows is None and all(getattr(p, "piece_rows", None) is None for p in flow.field.modules())
    tuned = fp.finetune(flow, reward, method="path_weighted", rows=8, **QUICK)
    seen, judge.most = rows_seen(tuned), 0
    assert tuned.rewards["before_se"] > 0
    assert max(seen) == 8
    assert all(getattr(p, "piece_rows", None) is None for p in tuned.field.modules())


@pytest.mark.parametrize("method", ["auto", "path_weighted"])
def test_no_rows_at_all_are_refused(noise: fp.Flow, method: str) -> None:
    with pytest.raises(FlowportError, match="rows=0 must be at least 1"):
        fp.finetune(noise, abscissa, method=method, rows=0, **QUICK)


def test_a_network_rules_low_rank_out(noise: fp.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Signals(3072, True, 0.5, signal=1.0, low_rank=True)
    monkeypatch.setattr("flowport.api.piloting.probe", lambda *_: found)
    sides, reward = (fp.Gaussian(2), fp.Gaussian(2)), reward_of(abscissa, None)
    for network, adapter in ((None, "low_rank"), ("mlp", "control")):
        settle = partial(settled, noise.field, sides, reward, 0.3, "auto", None, 64, Randomness(0))
        assert settle(network=network)[1] == adapter


@pytest.mark.parametrize("adapter", ["full", "low_rank"])
def test_a_network_for_an_adapter_without_one_is_refused(noise: fp.Flow, adapter: str) -> None:
    with pytest.raises(FlowportError, match=f'adapter={adapter} trains .* write adapter="control", or leave network'):
        fp.finetune(noise, abscissa, adapter=adapter, network="mlp", **QUICK)


class Abscissa(ModalityReward[Plane]):
    kind, meant = Plane, "points"

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return x1[:, 0]


def test_a_reward_serves_one_flow_after_another(noise: fp.Flow) -> None:
    reward = Abscissa()
    for word in (reward, (reward, 2.0), [abscissa, (reward, 2.0)], {"x": reward}):
        fp.finetune(noise, word, strength=0.5, method="path_weighted", **QUICK)
        assert reward.modality is None


def test_a_class_in_a_file_is_called_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("class BigJudge:\n    def __call__(self, x):\n        return x[:, 0]\n")
    torch.jit.script(Height()).save(str(tmp_path / "my-judge.pt"))
    words = [f"{file}:BigJudge", str(tmp_path / "my-judge.pt"), abscissa]
    assert list(reward_of(words, None).term_weights) == ["big_judge", "my_judge", "abscissa"]
