"""Tuned runs are runs like any other: resumed, evaluated, translated, tuned again; bases are never written to."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowport.errors import FlowportError
from flowport.reward import LinearReward
from flowport.run.base_run import base_of
from flowport.run.build import Parts
from flowport.run.evaluate import evaluate
from flowport.run.finetune import check_overrides, tune, tuned_config
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.train import train
from flowport.run.translate import translate
from flowport.training import finetune_module
from flowport.types import Condition
from tests.runs import ROOT, equal, measured, weights

BASE = [
    "experiment=gaussian_to_mixture",
    "trainer.max_steps=8",
    "network.width=16",
    "network.depth=1",
    "data.batch=64",
    "evaluation_items=64",
    "metric=[sliced_wasserstein]",
    "grid.steps=4",
    "threads=1",
]
TUNING = [
    "experiment=finetune_mixture",
    "method=path_weighted_adjoint",
    "trainer.max_steps=10",
    "starts=32",
    "method.steps_per_rollout=3",
    "method.batch=16",
    "method.grid.steps=12",
    "threads=1",
    "checkpoint_every=4",
]


def composed(name: str, *words: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(name, list(words))
    if "trainer" in config:
        with open_dict(config):
            config.trainer.enable_progress_bar = False
    return config


def trained(folder: Path, *words: str) -> Path:
    train(composed("train", *BASE, *words), RunFolder(folder))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


def wanted(base: Path, *words: str) -> DictConfig:
    """The config of a tuned run, checked as the command checks it."""
    overrides = composed("finetune", *words)
    check_overrides(overrides, Parts())
    return tuned_config(RunFolder(base), overrides)


def tuned(base: Path, folder: Path, *words: str) -> dict:
    return tune(wanted(base, *TUNING, *words), RunFolder(folder))


def digests(folder: Path) -> dict[str, str]:
    return {str(p): sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "words",
    [[], ["adapter=full"], ["method=adjoint_matching", "~method.batch"]],
    ids=["hybrid", "full", "adjoint"],
)
def test_a_resumed_tuning_equals_an_unbroken_one(base: Path, tmp_path: Path, words: list[str]) -> None:
    """Broken in the middle of a round: paths and replay are in the checkpoint."""
    if words[:1] == ["method=adjoint_matching"]:
        mine = [
            "experiment=finetune_mixture",
            "method=adjoint_matching",
            "method.steps_per_rollout=3",
            "starts=32",
            "method.discretisation.grid.steps=6",
            "trainer.max_steps=10",
            "threads=1",
            "checkpoint_every=4",
        ]
    else:
        mine = [*TUNING, *words]
    config, before = wanted(base, *mine), digests(base)
    short = OmegaConf.merge(config, {"trainer": {"max_steps": 5}})
    assert isinstance(short, DictConfig)
    short.scheduler = {"_target_": "flowport.training.scheduler.ConstantScheduler", "_partial_": True}
    config.scheduler = short.scheduler
    whole = tune(config, RunFolder(tmp_path / "whole"))
    tune(short, RunFolder(tmp_path / "broken"))
    numbers = resume(RunFolder(tmp_path / "broken"), ["trainer.max_steps=10"])
    assert equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert {k: v for k, v in measured(numbers).items() if "seconds" not in k} == measured(whole)
    assert digests(base) == before


def test_a_tuned_run_is_measured_translated_and_tuned_again(base: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    tuned(base, first)
    before = digests(first)
    kept = weights(first)
    mine = {k: v for k, v in kept.items() if k.startswith("field.base")}
    theirs = {k.replace("ema.", "field.base.", 1): v for k, v in weights(base).items() if k.startswith("ema.")}
    assert equal(mine, theirs), "the base of a tuned run is the averaged field of the run it tunes"
    overrides = OmegaConf.merge(composed("evaluate", f"run={first}"), {"threads": 1})
    assert isinstance(overrides, DictConfig)
    numbers = evaluate(RunFolder(first), overrides, RunFolder(tmp_path / "e"))
    assert any(name.startswith("test/") for name in numbers)
    words = composed("translate", f"run={first}", "points=16", "threads=1")
    facts = translate(RunFolder(first), words, RunFolder(tmp_path / "t"))
    assert facts["points"] == 16
    second = tuned(first, tmp_path / "second")
    assert second["train/steps"] == 10 and digests(first) == before
    again = restore(RunFolder(tmp_path / "second"))
    assert equal(dict(again.module.state_dict()), weights(tmp_path / "second"))
    names = [entry.base.run for entry in again.config.tuning]
    assert names == [str(base), str(first)]


def test_a_tuning_in_pieces_says_its_peak_once_and_learns_the_same(base: Path, tmp_path: Path, caplog) -> None:
    words = [*TUNING, "certified=16", "trajectories.device=cpu"]
    with caplog.at_level("INFO"):
        tuned(base, tmp_path / "pieces", *words, "rows=5")
    said = [r.message for r in caplog.records if "GiB of memory at most" in r.message]
    assert len(said) == 1
    assert "activations" in said[0]
    tuned(base, tmp_path / "whole", *words, "rows=null")
    pieces, whole = (weights(tmp_path / name) for name in ("pieces", "whole"))
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-3, atol=1e-5)


def test_rows_are_taken_by_the_estimate_where_the_device_has_less(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, on which a tuning without the key would end in its first collection."""
    words, limits = [*TUNING, "certified=16"], list[int]()
    monkeypatch.setattr(finetune_module, "device_memory", lambda device: limits[-1])
    for name, limit in (("enough", 2**40), ("less", 23_000)):
        limits.append(limit)
        caplog.clear()
        with caplog.at_level("INFO"):
            tuned(base, tmp_path / name, *words)
        said = [int(r.message.split()[0][5:]) for r in caplog.records if r.message.startswith("rows=")]
        assert (said == []) if name == "enough" else (0 < said[0] < 32 and len(said) == 1)
        assert not [r for r in caplog.records if r.levelname == "WARNING" and "GiB" in r.message]
    enough, less = (weights(tmp_path / name) for name in ("enough", "less"))
    for name, value in enough.items():
        torch.testing.assert_close(less[name], value, rtol=1e-3, atol=1e-5)
    caplog.clear()
    with caplog.at_level("INFO"):  # a collection is made every third step: at step 12 next
        resume(RunFolder(tmp_path / "less"), ["trainer.max_steps=11"])
    assert [r.message for r in caplog.records if r.message.startswith("rows=")], "also within a collection"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("rows=0", "rows=0"),
        ("checkpointing=true", "checkpointing=true finds no blocks"),
        ("trajectories.dtype=int8", "trajectories.dtype=int8"),
        ("trajectories.device=cuda", "trajectories.device=cuda"),
        ("trajectories=cpu", "trajectories"),
    ],
)
def test_a_wrong_option_of_memory_is_refused(base: Path, tmp_path: Path, word: str, sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence):
        tuned(base, tmp_path / "run", *TUNING, word)


def test_a_flow_that_learns_nothing_wins_nothing_from_any_start(tmp_path: Path) -> None:
    """Rewards of starts differ, what each wins does not: base and tuned flow see the same start and the same noise."""
    base = trained(tmp_path / "base", "solver=euler_maruyama", "volatility=memoryless")
    numbers = tuned(base, tmp_path / "untuned", "optimizer.lr=1e-30")
    assert numbers["sampled/gain"] == pytest.approx(0, abs=1e-6)
    assert numbers["sampled/gain_se"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method.late=0.99"], "late=0.99 lies after the last noisy step"),
        (["strength=0"], "strength=0 is too small: strength must be above 0"),
        (["strength=1e30", "method=adjoint_matching"], "squared adjoint is not finite at strength=1e"),
        (["weights=best"], "weights=best is unknown"),
        (["reward.c=[1,2,3]"], "reward"),
        (["method=adjoint_matching", "reward=compressibility", "~reward.c"], "needs the reward's gradient"),
        (["starts=0"], "starts=0 is too small"),
        (["strength=abc"], "strength=abc is of the wrong kind: strength must be a number"),
        (["strength=nan"], "strength=nan is not a finite number"),
        (["strength=1e39", "method=path_weighted"], "the reward times its strength is not finite"),
        (["strength=1e39", "method=draft"], "the reward times its strength is not finite"),
        (["strength=1e39", "method=refl"], "the reward times its strength is not finite"),
    ],
)
def test_a_wrong_tuning_is_refused_by_name(base: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    other = any(word.startswith("method=") for word in words)
    rest = [TUNING[0], TUNING[1], "starts=32", "threads=1"] if other else TUNING
    before = digests(base)
    with pytest.raises(FlowportError, match=sentence):
        tune(wanted(base, *rest, *words), RunFolder(tmp_path))
    assert digests(base) == before


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("strength=0", "strength=0 is too small: strength must be above 0"),
        ("strength=nan", "strength=nan is not a finite number"),
        ("strength=inf", "strength=inf is not a finite number"),
        ("starts=0", "starts=0 is too small"),
        ("rows=0", "rows=0 is too small"),
        ("certified=1", "certified=1 is too small"),
        ("trainer.max_steps=0", "trainer.max_steps=0 is too small"),
        ("trainer.accelerator=3", "trainer.accelerator=3 is of the wrong kind"),
        ("trainer.precision=16-true", "use trainer.precision=16-mixed"),
        ("optimizer.lr=-1", "optimizer cannot be built from its options .*'lr': -1.*Invalid learning rate"),
    ],
)
def test_what_is_wrong_is_refused_before_a_base_is_trained(word: str, sentence: str) -> None:
    good = composed("finetune", "experiment=finetune_mixture")
    check_overrides(good, Parts())
    with pytest.raises(FlowportError, match=sentence):
        check_overrides(composed("finetune", "experiment=finetune_mixture", word), Parts())


class Spoilt(LinearReward):
    """A reward that is not a number from its third collection on; the estimate of memory asks it once, without data."""

    asked = 0

    def forward(self, x1: torch.Tensor, condition: Condition) -> torch.Tensor:
        type(self).asked += 1
        return super().forward(x1, condition) * (1 if type(self).asked < 4 else float("nan"))


def test_a_reward_that_fails_in_mid_training_loses_nothing_that_was_saved(base: Path, tmp_path: Path) -> None:
    config, before = wanted(base, *TUNING, "watch=null"), digests(base)
    config.tuning[-1].reward = {"_target_": "tests.run.test_finetune.Spoilt", "c": [0.5, 0.4]}
    with pytest.raises(FlowportError, match="reward=spoilt returned NaN for 32 of 32 points"):
        tune(config, RunFolder(tmp_path))
    assert digests(base) == before
    assert RunFolder(tmp_path).read_checkpoint()["global_step"] == 4, (
        "the last checkpoint before the third collection, at step 6"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["coupling=exact"], "bridge variant of this experiment"),
        (["path=smooth_bridge", "prediction=bridge"], "does not see its start"),
    ],
)
def test_a_base_without_a_tilt_is_refused_with_what_to_do(tmp_path: Path, words: list[str], sentence: str) -> None:
    other = trained(tmp_path / "base", *words)
    with pytest.raises(FlowportError, match=sentence):
        tuned(other, tmp_path / "tuned")


def test_a_tuning_without_a_reward_or_a_base_is_refused(base: Path) -> None:
    with pytest.raises(FlowportError, match="say reward="):
        tuned_config(RunFolder(base), composed("finetune"))
    with pytest.raises(FlowportError, match="give run="):
        base_of(composed("finetune", "reward=brightness"))


def test_a_bridge_that_sees_its_start_is_tuned_start_by_start(tmp_path: Path) -> None:
    other = trained(
        tmp_path / "base", "path=brownian_bridge", "conditioning=source", "prediction=target", "solver=ancestral"
    )
    numbers = tuned(other, tmp_path / "tuned", "method.paths=4")
    assert 0 < numbers["certificate/effective"] <= numbers["certificate/paths"] == 2 * 512
    assert ("certificate/memory" in numbers) != ("certificate/memory_withheld" in numbers)


def test_a_tuned_run_reports_its_certificate_in_r_and_in_scaled_r(base: Path, tmp_path: Path) -> None:
    """Nothing of the certificate is named like a number of training, and every estimate has an error."""
    numbers = tuned(base, tmp_path, "strength=2", "+rows=100")
    own = {name.partition("/")[2]: value for name, value in numbers.items() if name.startswith("certificate/")}
    for name in ("reward", "base_reward", "tilted_reward"):
        assert own[f"scaled_{name}"] == pytest.approx(2 * own[name])
    estimates = {name for name in own if f"{name}_se" in own}
    assert {"kl_to_tilt", "kl_from_tilt", "kl_to_base", "share", "mean_gap", "reward"} <= estimates
    assert "neither" in own["blind_spot"] and "memory" not in own
    assert not any(name.startswith("tune/") for name in numbers)
    for name in ("reward", "base_reward", "gain"):
        assert numbers[f"sampled/{name}_se"] > 0
    assert "sampled/tilted_reward" not in numbers and "sampled/effective" not in numbers


def test_a_certificate_that_fails_does_not_lose_the_metrics(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise FlowportError("no certificate")

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("flowport.run.certified.certificate", failing)
        with pytest.raises(FlowportError, match="no certificate"):
            tuned(base, tmp_path)
    numbers = folder.read_metrics()
    assert any(name.startswith("test/") for name in numbers) and numbers["train/pending"] == "certificate"
    assert not folder.finished and folder.begun, "the run can be gone on with, and is not taken for a finished one"
    again = resume(folder, [])
    assert folder.finished and "certificate/paths" in again and "train/pending" not in folder.read_metrics()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "certificate/kl_to_base" in events.Tags()["scalars"], "what was missing is told to the loggers too"
