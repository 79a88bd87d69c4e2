"""Configs of a sweep's jobs: what is composed once equals what Hydra composes anew for every job."""

import pickle
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from flowport.run.sweep_composer import SweepComposer
from tests import runs


@pytest.fixture
def loader() -> Any:
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(runs.ROOT / "configs")))
    yield hydra.config_loader
    GlobalHydra.instance().clear()


def master_of(loader: Any) -> DictConfig:
    found: DictConfig = loader.load_configuration("train", ["hydra.sweep.dir=sweep"], RunMode.MULTIRUN)
    return found


def text(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config, resolve=False)


JOBS = [
    ["experiment=eight_gaussians_to_moons", "seed=0", "trainer.max_steps=3", "hydra.sweep.subdir='0'"],
    ["experiment=eight_gaussians_to_moons", "seed=1", "trainer.max_steps=5", "hydra.sweep.subdir='a, b'"],
    ["experiment=eight_gaussians_to_moons", "coupling=independent", "seed=1", "data.batch=8"],
    ["experiment=eight_gaussians_to_moons", "coupling=exact", "seed=2", "data.batch=16"],
    ["experiment=eight_gaussians_to_moons", "coupling=exact", "seed=null", "data.batch='${seed}'"],
    ["experiment=none", "+trainer.profiler=simple", "seed=1", "metric=[wasserstein]"],
    ["experiment=none", "+trainer.profiler=simple", "seed=2", "metric=[mmd]"],
    ["experiment=none", "seed=2", "seed=3"],
    ["experiment=none", "seed=3", "seed=2"],
    ["experiment=none", "trainer={max_steps: 7}", "trainer.max_steps=8"],
    ["experiment=none", "trainer={max_steps: 7}", "trainer.max_steps=9"],
]


def test_configs_equal_hydra_s_own(loader: Any) -> None:
    master, composer = master_of(loader), SweepComposer(loader)
    called = 0
    for job in [*JOBS, *reversed(JOBS)]:
        expected = loader.load_sweep_config(master, job)
        found = composer.load_sweep_config(master, job)
        assert text(found) == text(expected), job
        assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)
        found.trainer.max_steps = 10**6  # a job's own changes reach no other job
        called += 1
    assert called == 2 * len(JOBS)


def test_jobs_that_differ_in_values_are_composed_from_files_once(loader: Any, monkeypatch: Any) -> None:
    master, composer, composed = master_of(loader), SweepComposer(loader), list[Any]()
    plain = type(loader).load_configuration

    def noted(*words: Any, **more: Any) -> DictConfig:
        composed.append(more["overrides"])
        return plain(*words, **more)

    monkeypatch.setattr(type(loader), "load_configuration", noted)
    for seed in range(5):
        for coupling in ("exact", "independent"):
            composer.load_sweep_config(master, [f"coupling={coupling}", f"seed={seed}"])
    assert len(composed) == 2
    again = pickle.loads(pickle.dumps(composer))  # as it goes to the processes of a launcher
    assert text(again.load_sweep_config(master, ["seed=1"])) == text(loader.load_sweep_config(master, ["seed=1"]))


@pytest.mark.parametrize("words", [["sead=1"], ["trainer.max_step=1"], ["coupling=no"], ["experiment.x=1"]])
def test_what_does_not_exist_is_refused_as_hydra_refuses_it(words: list[str], loader: Any) -> None:
    master, composer = master_of(loader), SweepComposer(loader)
    said = []
    for one in (loader, composer, composer):
        with pytest.raises(ConfigCompositionException) as refusal:
            one.load_sweep_config(master, words)
        said.append(str(refusal.value))
    assert said[0] == said[1] == said[2]
