"""Reflow: exact on the Gaussian, where one round is the monotone map; and a reflowed run is a run like any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from flowport.capabilities import NoNoise, SourceIsNoise
from flowport.data.pairing import read_pairs
from flowport.errors import FlowportError, Stopped
from flowport.field.analytic import JointMixture
from flowport.metric.path_energy import path_energy
from flowport.path import LinearPath
from flowport.prediction import VelocityPrediction
from flowport.run.reflow import _config, carried
from flowport.run.reflow import reflow as reflow_run
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.train import train
from flowport.run.translate import PAIRS, translate
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import RK4, Euler
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition, Pair, Sample
from tests.laws.oracles import Composition, line
from tests.run.test_finetune import composed, trained
from tests.runs import equal, fingerprint, measured, weights

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
SEED = torch.Generator().manual_seed(0)


def test_one_round_on_a_gaussian_is_the_monotone_map_at_the_least_energy() -> None:
    """x1 = m1 + √(s1/s0) (x0 − m0), whose W2² = (m1 − m0)² + (√s1 − √s0)²: the round's flow spends no more (NPE 0), is
    straight, and one Euler step follows it. Gauss–Hermite points make every mean exact."""
    m1, s1, weight = 1.5, 0.09, torch.tensor(WEIGHTS / WEIGHTS.sum())
    x0 = torch.tensor(NODES)[:, None]
    base = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, m1, 1, s1, 0)]))
    pair = carried(Translator(base, RK4(), UniformGrid(30), ZeroVolatility()), Pair(Sample(x0), Sample(0 * x0)), SEED)
    end = pair.target.x
    assert torch.equal(pair.source.x, x0)
    torch.testing.assert_close(end, m1 + s1**0.5 * x0, rtol=0, atol=1e-6)
    mean, cross = weight @ end, (weight @ (x0 * end))[None]
    pairing = JointMixture.gaussian(x0.new_zeros(1), x0.new_ones(1, 1), mean, (weight @ (end - mean) ** 2)[None], cross)
    round_1 = Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(pairing)
    least, spent = m1**2 + (1 - s1**0.5) ** 2, {}
    for name, field in (("base", base), ("round", round_1)):
        run = Translator(field, RK4(), UniformGrid(30), ZeroVolatility()).forward(Sample(x0), SEED, all_states=True)
        energy = path_energy(lambda x, t, f=field: f.velocity(x, t, Condition()), run.times, run.states)
        spent[name] = float(weight @ energy)
    assert abs(spent["round"] - least) / least < 1e-5 < 0.01 < abs(spent["base"] - least) / least
    stride = Translator(round_1, Euler(), UniformGrid(1), ZeroVolatility()).forward(Sample(x0), SEED).end
    torch.testing.assert_close(stride, end, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run", "scheduler=constant", "data.batch=32")


def reflow(base: Path, overrides: DictConfig, out: Path) -> dict:
    return reflow_run(RunFolder(base), overrides, RunFolder(out))


def overridden(*words: str) -> DictConfig:
    return composed("reflow", "pairs=64", "threads=1", *words)


def test_rounds_are_runs_like_any_other(base: Path, tmp_path: Path) -> None:
    before, out = fingerprint(base), tmp_path / "run"
    numbers = reflow(base, overridden("rounds=2", "steps=3"), out)
    first = out / "rounds" / "1"
    assert fingerprint(base) == before and json.loads((out / "metrics.json").read_text()) == numbers
    assert numbers["base"] == str(first) and json.loads((first / "metrics.json").read_text())["base"] == str(base)
    config = OmegaConf.load(out / ".hydra" / "config.yaml")
    assert [entry.base for entry in config.reflow] == [str(base), str(first)]
    assert config.pairing.path == str(out / "pairs.safetensors")
    pairs, run = read_pairs(config.pairing.path), restore(RunFolder(first))
    again = run.sampler.translator(run.module.ema).forward(pairs.source, SEED).end
    torch.testing.assert_close(pairs.target.x, again)
    assert len(pairs) == 64 and pairs.target.label is None
    whole = weights(out)
    assert equal(dict(restore(RunFolder(out)).module.state_dict()), whole)
    words = composed("translate", f"run={out}", "points=16", "part=train")
    assert translate(RunFolder(out), words, RunFolder(tmp_path / "t"))["points"] == 16
    stored = read_pairs(str(tmp_path / "t" / "pairs.safetensors"))
    np.testing.assert_array_equal(stored.target.x, np.load(tmp_path / "t" / "translated.npy"))


@pytest.mark.parametrize("conditioned", [None, torch.tensor([3, 3])])
def test_a_pair_keeps_the_label_of_its_target_in_both_directions(conditioned: torch.Tensor | None) -> None:
    points, ends = Sample(torch.zeros(2, 1), torch.tensor([1, 2]), None, torch.tensor([7, 8])), torch.ones(2, 1)
    there, back = (PAIRS[way](points, ends, conditioned) for way in ("forward", "backward"))
    assert there.source is points and there.target.x is ends and there.target.label is conditioned
    assert back.source.x is ends and back.source.label is None and back.source.id is points.id
    assert back.target.x is points.x and back.target.label is (points.label if conditioned is None else conditioned)


def test_a_resumed_round_equals_an_unbroken_one_and_starts_from_its_base(base: Path, tmp_path: Path) -> None:
    for name, steps in (("whole", 5), ("broken", 3)):
        reflow(base, overridden("solver=euler", "grid=uniform", "grid.steps=2", f"steps={steps}"), tmp_path / name)
    numbers = resume(RunFolder(tmp_path / "broken"), ["trainer.max_steps=5"])
    assert equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    test = {k: v for k, v in measured(whole).items() if k.startswith("test/")}
    assert {k: numbers[k] for k in test} == test
    ema = {k: v for k, v in weights(base).items() if k.startswith("ema.")}
    near = weights(tmp_path / "whole")
    assert max(float((near[k] - v).abs().max()) for k, v in ema.items()) < 0.02


@pytest.mark.parametrize("stopped_at", [0, 1])
def test_stopped_rounds_go_on_by_the_same_command(
    base: Path, tmp_path: Path, stopped_at: int, monkeypatch: Any
) -> None:
    words, calls = overridden("solver=euler", "grid=uniform", "grid.steps=2", "rounds=3", "steps=4"), []
    reflow(base, words, tmp_path / "whole")

    def stopping(config: DictConfig, folder: RunFolder, *args: Any, **options: Any) -> dict:
        calls.append(folder.path.name)
        if len(calls) == stopped_at + 1:
            short = config.copy()
            short.trainer.max_steps = 2
            train(short, folder, *args, **options)
            folder.metrics.unlink()
            folder.write_config(config)
            raise Stopped(15, "after step 2")
        return train(config, folder, *args, **options)

    monkeypatch.setattr("flowport.run.reflow.train", stopping)
    out = tmp_path / "broken"
    with pytest.raises(Stopped, match=f"in round {stopped_at + 1}: go on by the same command with hydra.run.dir={out}"):
        reflow(base, words, out)
    done = {path: path.stat().st_mtime_ns for path in out.glob("rounds/*/metrics.json")}
    assert len(done) == stopped_at
    reflow(base, words, out)
    assert calls[stopped_at + 1] == str(stopped_at + 1)  # no earlier round was made again
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert equal(weights(out), weights(tmp_path / "whole"))


def test_another_config_makes_its_rounds_anew(base: Path, tmp_path: Path) -> None:
    small = ("solver=euler", "grid=uniform", "grid.steps=2", "rounds=2")
    reflow(base, overridden(*small, "steps=3"), tmp_path)
    first = tmp_path / "rounds" / "1"
    before = first.joinpath("metrics.json").stat().st_mtime_ns
    reflow(base, overridden(*small, "steps=3"), tmp_path)
    assert first.joinpath("metrics.json").stat().st_mtime_ns == before
    reflow(base, overridden(*small, "steps=2"), tmp_path)
    assert json.loads(first.joinpath("metrics.json").read_text())["train/steps"] == 2


def test_a_flow_that_learns_guided_pairs_is_not_guided_again(base: Path, tmp_path: Path) -> None:
    config = RunFolder(base).read_config()
    config.guidance = {
        "_target_": "flowport.field.guidance.ClassifierFreeGuidance",
        "_partial_": True,
        "scale": 3.0,
    }
    shutil.copytree(base, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.write_config(config)
    assert _config(folder, overridden(), RunFolder(tmp_path)).guidance == {
        "_target_": "flowport.field.guidance.Unguided"
    }


def test_what_cannot_be_reflowed_is_refused(base: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (["solver=euler_maruyama", "volatility=constant"], "an ODE takes it"),
        (["rounds=0"], "rounds=0 is too small"),
        (["pairs=9"], "pairs=9 is too small"),
        (["weights=best"], "weights=best is unknown"),
    ):
        with pytest.raises(FlowportError, match=sentence):
            reflow(base, overridden(*words), tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))
