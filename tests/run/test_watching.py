"""A tuning that is watched: what its record holds, and which weights a stop rule keeps."""

import inspect
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowport.errors import FlowportError, Stopped
from flowport.run.finetune import tune
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.sampling.translator import Translator
from flowport.training.callback import TuningWatch
from flowport.training.callback.checkpointing import same_file
from tests.run.test_finetune import trained, wanted
from tests.runs import equal, fingerprint, measured, weights

STEPS = 16
SMALL = [
    "experiment=finetune_mixture",
    "method=path_weighted_adjoint",
    f"trainer.max_steps={STEPS}",
    "starts=32",
    "method.steps_per_rollout=2",
    "method.batch=16",
    "method.grid.steps=12",
    "certified=32",
    "threads=1",
    "checkpoint_every=5",
    "scheduler=constant",
    "optimizer.lr=2e-2",
    "ema_decay=0.5",
    "watch.every=4",
    "watch.items=16",
]
BOTH = {
    "_target_": "flowport.reward.SumReward",
    "_convert_": "all",
    "terms": {
        "right": {"_target_": "flowport.reward.LinearReward", "c": [4.0, 0.0]},
        "left": {"_target_": "flowport.reward.LinearReward", "c": [-1.0, 0.0]},
    },
    "weights": {"right": 1.0, "left": 0.0},
}
"""What wins the first term loses the second, which counts nothing."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def free(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning that nothing stops."""
    folder = tmp_path_factory.mktemp("free") / "run"
    tune(config_of(base), RunFolder(folder))
    return folder


@pytest.fixture(scope="module")
def limit(free: Path) -> str:
    """The budget of energy that this tuning reaches between the looks after 8 and 12 steps."""
    energy = dict(scalars(free, "watch/energy"))
    budget = (energy[8] + energy[12]) / 2
    assert energy[0] < energy[4] < energy[8] < budget < energy[12], energy
    return f"stop.energy={budget}"


@pytest.fixture(scope="module")
def bound(base: Path, limit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tuning within that budget."""
    folder = tmp_path_factory.mktemp("bound") / "run"
    tune(config_of(base, limit), RunFolder(folder))
    return folder


def config_of(base: Path, *words: str, watched: float | None = None) -> DictConfig:
    config = wanted(base, *SMALL, *words)
    if watched is not None:
        config.tuning[-1].reward, config.stop.watched = BOTH, {"left": watched}
    return config


def board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board(folder).Scalars(tag)]


def numbers_of(folder: Path) -> dict[str, Any]:
    return measured(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.slow
def test_tensorboard_has_the_looks_of_a_tuning_and_its_end(free: Path) -> None:
    events, looks = board(free), list(range(0, STEPS + 1, 4))
    for name in ("reward", "reward_se", "base_reward", "gain", "energy", "energy_se", "diversity_share"):
        assert [event.step for event in events.Scalars(f"watch/{name}")] == looks, name
    reward, before = (dict(scalars(free, f"watch/{name}")) for name in ("reward", "base_reward"))
    assert len(set(before.values())) == 1 and reward[0] == pytest.approx(before[0])
    gain = dict(scalars(free, "watch/gain"))
    assert {step: reward[step] - before[step] for step in looks} == pytest.approx(gain, abs=1e-5)
    assert abs(gain[STEPS]) > 0.01 and dict(scalars(free, "watch/energy"))[0] == pytest.approx(0, abs=1e-6)
    sheets = events.Images("watch/sheet")
    assert [event.step for event in sheets] == looks
    assert sorted(path.name for path in (free / "watch").iterdir()) == [f"{step:06d}.png" for step in looks]
    with (
        Image.open(io.BytesIO(sheets[-1].encoded_image_string)) as shown,
        Image.open(free / "watch" / f"{STEPS:06d}.png") as kept,
    ):
        assert shown.convert("RGB").tobytes() == kept.convert("RGB").tobytes()
    (last,) = events.Images("before_after")
    assert last.step == STEPS
    found = numbers_of(free)
    assert scalars(free, "sampled/gain")[-1] == (STEPS, pytest.approx(found["sampled/gain"], rel=1e-5))
    assert found["watch/kept_step"] == STEPS and "watch/stopped_by" not in found
    assert not (free / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_a_tuning_that_is_not_watched_is_the_same(free: Path, base: Path, tmp_path: Path) -> None:
    """A look draws from generators of its own and changes no weight."""
    tune(config_of(base, "watch=null"), RunFolder(tmp_path))
    assert equal(weights(free), weights(tmp_path))
    assert not (tmp_path / "watch").exists()
    assert not [tag for tag in board(tmp_path).Tags()["scalars"] if tag.startswith("watch/")]


@pytest.mark.slow
def test_a_reward_that_is_won_at_the_cost_of_a_watched_one_stops_before_the_fall(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rightwards is leftwards lost: the watched term falls at once, so the untuned flow is kept; with a limit of many
    standard errors the fall is a later one."""
    caplog.set_level("INFO")
    found = tune(config_of(base, watched=2.0), RunFolder(tmp_path / "hacked"))
    assert found["watch/stopped_by"] == "stop.watched.left=2"
    kept, stopped = found["watch/kept_step"], found["watch/stopped_step"]
    assert found["train/steps"] == stopped == kept + 4 < STEPS
    assert f"stop.watched.left=2 stopped the tuning after step {stopped}: the weights of step {kept}" in caplog.text
    fall = {
        step: (value, error)
        for (step, value), (_, error) in zip(
            scalars(tmp_path / "hacked", "watch/term_left_gain"),
            scalars(tmp_path / "hacked", "watch/term_left_gain_se"),
            strict=True,
        )
    }
    assert fall[stopped][0] < -2 * fall[stopped][1] and fall[kept][0] >= -2 * fall[kept][1]
    assert max(fall) == stopped
    last, best = (torch.load(tmp_path / "hacked" / "checkpoints" / name, weights_only=True) for name in FILES)
    assert last["global_step"] == best["global_step"] == kept and equal(last["state_dict"], best["state_dict"])
    assert kept == 0 and found["sampled/gain"] == pytest.approx(0, abs=1e-6), "measured with the kept weights"


FILES = ("last.ckpt", "best.ckpt")


@pytest.mark.slow
def test_a_budget_of_energy_keeps_the_last_weights_within_it(base: Path, bound: Path, tmp_path: Path) -> None:
    found = numbers_of(bound)
    assert (found["watch/kept_step"], found["watch/stopped_step"], found["train/steps"]) == (8, 12, 12)
    tune(config_of(base, "trainer.max_steps=8"), RunFolder(tmp_path))
    assert equal(weights(bound), weights(tmp_path)), "the weights of step 8 are those of the run"
    assert found["sampled/gain"] == pytest.approx(numbers_of(tmp_path)["sampled/gain"])


class Signalling(lightning.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_resumed_tuning_stops_as_an_unbroken_one(
    base: Path, free: Path, limit: str, bound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken by a signal in the middle, then killed between the stop and the measures, then resumed when finished."""
    monkeypatch.setenv("FLOWPORT_TRUST", __name__.partition(".")[0])
    config = config_of(base, limit)
    config.callback = {"mine": {"_target_": f"{__name__}.Signalling", "step": 9}}
    with pytest.raises(Stopped, match=r"SIGTERM after step 10, which is saved: go on by flowport train run="):
        tune(config, RunFolder(tmp_path))
    settle = TuningWatch.settle
    monkeypatch.setattr(TuningWatch, "settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume(RunFolder(tmp_path), [])
    monkeypatch.setattr(TuningWatch, "settle", settle)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
    resume(RunFolder(tmp_path), [])
    for _ in range(2):
        assert equal(weights(tmp_path), weights(bound))
        assert numbers_of(tmp_path) == numbers_of(bound)
        for tag in ("watch/reward", "watch/energy"):
            assert scalars(tmp_path, tag) == scalars(bound, tag)
        resume(RunFolder(tmp_path), [])
    resume(RunFolder(tmp_path), ["stop.energy=null", "callback.mine.step=-1"])
    assert equal(weights(tmp_path), weights(free)), "without its limit it goes on from the kept weights"


def interrupted(self: TuningWatch, module: Any, steps: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_resumed_tuning_takes_wider_limits_alone(
    base: Path, free: Path, bound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a new or narrower one it is not known whether the weights that it goes on from are within it."""
    caplog.set_level("INFO")
    done, stopped = (Path(shutil.copytree(run, tmp_path / run.parent.name)) for run in (free, bound))
    before = fingerprint(done), fingerprint(stopped)
    with pytest.raises(FlowportError, match=rf"stop.energy=100: the weights of step {STEPS}, .*\(so far no limit\)"):
        resume(RunFolder(done), ["stop.energy=100"])
    former = json.dumps(OmegaConf.load(bound / ".hydra" / "config.yaml").stop.energy)
    with pytest.raises(FlowportError, match=rf"0.001: the weights of step 8, .*\(so far stop.energy={former}\)"):
        resume(RunFolder(stopped), ["stop.energy=0.001"])
    with pytest.raises(FlowportError, match=r"stop.watched.reward=2: the weights of step 8"):
        resume(RunFolder(stopped), ["stop.watched={reward:2}"])
    assert (fingerprint(done), fingerprint(stopped)) == before, "nothing is written where it is refused"
    config = OmegaConf.load(done / ".hydra" / "config.yaml")
    config.watch = None
    OmegaConf.save(config, done / ".hydra" / "config.yaml")
    with pytest.raises(FlowportError, match=r"stop=… needs what it judges by"):
        resume(RunFolder(done), ["stop.energy=100"])
    wide = 2 * max(dict(scalars(free, "watch/energy")).values())
    resume(RunFolder(stopped), [f"stop.energy={wide}"])
    assert equal(weights(stopped), weights(free)) and numbers_of(stopped)["watch/kept_step"] == STEPS
    assert f"was not reached: the weights of step {STEPS}, the last" in caplog.text
    assert scalars(stopped, "watch/energy") == scalars(free, "watch/energy")
    caplog.clear()
    resume(RunFolder(stopped), [])
    assert f"was not reached: the weights of step {STEPS}, the last" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stop.watched={legible:2}"], r"stop.watched.legible is no term of this run's reward: choose reward"),
        (["watch=null", "stop.energy=2"], "stop=… needs what it judges by"),
        (["stop.energy=-1"], "stop.energy=-1 is too small"),
        (["stop.energy=far"], "stop.energy=far is of the wrong kind"),
        (["stop.watched={reward:0}"], r"stop.watched.reward=0.* is too small"),
        (["stop.watched={reward:much}"], "stop.watched.reward=much is of the wrong kind|stop.watched=.*wrong kind"),
        (["stop=3"], "stop=3 must be null or hold energy and watched"),
        (["watch.every=0"], "watch.every=0 is too small"),
        (["watch.items=1"], "watch.items=1 is too small"),
    ],
)
def test_a_watch_that_cannot_be_is_refused_by_name(base: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence):
        tune(config_of(base, *words), RunFolder(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_kept_checkpoint_outlives_the_next_one(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.write_text("four")
    same_file(last, best)
    (tmp_path / "next").write_text("eight")
    os.replace(tmp_path / "next", last)
    assert (last.read_text(), best.read_text()) == ("eight", "four")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def no_links(*_: Any) -> None:
    raise OSError("no hard links here")


def test_looks_and_certificate_run_in_the_precision_of_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plain = [], Translator.forward

    def spied(self: Translator, *args: Any, **options: Any) -> Any:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        seen.extend((Path(f.filename).stem, kind) for f in inspect.stack())
        return plain(self, *args, **options)

    monkeypatch.setattr(Translator, "forward", spied)
    short = ["trainer.precision=bf16-mixed", "trainer.max_steps=4", "checkpoint_every=4"]
    numbers = tune(config_of(base, *short), RunFolder(tmp_path))
    for place in ("tuning_watch", "certified"):
        assert {kind for where, kind in seen if where == place} == {torch.bfloat16}
    assert numbers["sampled/spread_se"] > 0 and numbers["sampled/base_spread_se"] > 0
