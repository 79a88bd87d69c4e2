"""Every command builds what it needs, once, and nothing else."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from flowport.reward import LinearReward
from flowport.run import build
from flowport.run.boost import boosted, check_overrides
from flowport.run.build import Parts
from flowport.run.evaluate import evaluate
from flowport.run.log_likelihood import log_likelihood
from flowport.run.reflow import reflow
from flowport.run.run_folder import RunFolder
from flowport.run.translate import translate
from tests.run.test_boost import WORDS
from tests.run.test_finetune import TUNING, composed, trained

BRIDGE = ("path=brownian_bridge", "conditioning=source", "prediction=target", "solver=ancestral")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("bridge") / "run", *BRIDGE)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often rewards, data sets, networks and metrics were built."""
    counts: Counter[str] = Counter()

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(LinearReward, "__init__", count("reward", LinearReward.__init__))
    monkeypatch.setattr(build, "measured", count("data", build.measured))
    monkeypatch.setattr(build, "compose", count("flow", build.compose))
    monkeypatch.setattr(build, "Evaluator", count("metrics", build.Evaluator))
    return counts


def fine_tune(base: Path, folder: Path, *words: str) -> None:
    """As ``flowport finetune`` does."""
    overrides, parts = composed("finetune", *words), Parts()
    check_overrides(overrides, parts)
    boosted(RunFolder(base), overrides, RunFolder(folder), parts)


def test_a_fine_tuning_builds_its_base_its_data_and_its_reward_once(
    base: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    fine_tune(base, tmp_path, *TUNING)
    assert counted == {"reward": 1, "data": 1, "flow": 1, "metrics": 1}


def test_boosting_builds_its_reward_and_its_data_once_over_all_rounds(
    bridge: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    fine_tune(bridge, tmp_path, *WORDS, "boosting.rounds=2")
    assert counted == {"reward": 1, "data": 1, "flow": 3, "metrics": 3}


def test_reflow_builds_its_data_once_and_measures_each_round_once(
    base: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    reflow(RunFolder(base), composed("reflow", "pairs=64", "threads=1", "rounds=2", "steps=2"), RunFolder(tmp_path))
    assert counted == {"data": 1, "flow": 4, "metrics": 2}, "each round restores a flow and trains another"


def test_translate_and_likelihood_build_no_metric_and_train_no_classifier(
    base: Path, tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier that is not in the cache is trained by evaluate alone."""

    def train(*args: Any) -> Any:
        raise AssertionError("a classifier was asked for")

    monkeypatch.setattr(build, "classifier_of", train)
    folder = RunFolder(base)
    config = folder.read_config()
    config.metric = {"fd": {"_target_": "flowport.metric.FrechetDistance", "_partial_": True}}
    place = RunFolder(tmp_path / "run").create()
    place.checkpoints.mkdir()
    place.checkpoint.write_bytes(folder.checkpoint.read_bytes())
    place.write_config(config)
    translate(place, composed("translate", f"run={place}", "points=8", "threads=1"), RunFolder(tmp_path / "t"))
    words = ["divergence=exact", "threads=1", "evaluation_items=8"]
    log_likelihood(place, composed("likelihood", f"run={place}", *words), RunFolder(tmp_path / "l"))
    assert counted["metrics"] == 0
    with pytest.raises(AssertionError, match="a classifier was asked for"):
        evaluate(place, composed("evaluate", f"run={place}", "threads=1"), RunFolder(tmp_path / "e"))


def test_checks_change_nothing() -> None:
    overrides = composed("finetune", *TUNING)
    before = OmegaConf.to_yaml(overrides)
    check_overrides(overrides, Parts())
    build.check(config := composed("train", "experiment=eight_gaussians_to_moons"))
    assert OmegaConf.to_yaml(overrides) == before
    assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(composed("train", "experiment=eight_gaussians_to_moons"))


def test_relative_paths_of_a_user_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowport.run.cli import resolve_paths

    monkeypatch.chdir(tmp_path)
    config = composed("train", "distribution@target=tensor_file", "target.path=points.npy", "experiment=none")
    other = composed("finetune", "reward=distance", "reward.reference=[1.0,2.0]", "run=here/run")
    pictures = composed("finetune", "reward=distance", "reward.reference=goal.npy")
    for part in (config, other, pictures):
        resolve_paths(part)
    assert config.target.path == str(tmp_path / "points.npy") and config.path._target_.endswith("LinearPath")
    assert other.run == str(tmp_path / "here" / "run") and other.reward.reference == [1.0, 2.0]
    assert pictures.reward.reference == str(tmp_path / "goal.npy") and pictures.run is None
