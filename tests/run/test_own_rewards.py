"""Rewards of the user's own on the command line: words, options, sums, trust, and runs that are taken up again."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError
from flowport.run.build import Parts
from flowport.run.cli import sentence_of
from flowport.run.commands import in_hydra_grammar
from flowport.run.evaluate import evaluate
from flowport.run.finetune import check_overrides, tune, tuned_config
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.translate import translate
from flowport.run.trust import remember_programs
from tests import runs
from tests.run.test_finetune import composed, digests, trained

JUDGE = """
import torch
from flowport.reward import Reward

class Gain(torch.nn.Module):
    def __init__(self, gain, shift=0.5):
        super().__init__()
        self.gain, self.shift = gain, shift

    def forward(self, x):
        return self.gain * (x[:, 0] - self.shift)

def height(x):
    return x[:, 1].sin()

def black_box(x):
    return x.numpy()[:, 1]

def convex(x, power=2):
    return 50 * (x.abs() ** power).sum(1)

def wide(x):
    return x
"""
QUICK = [
    "method=path_weighted",
    "starts=32",
    "trainer.max_steps=4",
    "method.steps_per_rollout=2",
    "method.batch=16",
    "method.grid.steps=6",
    "certified=32",
    "threads=1",
    "checkpoint_every=2",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path / "home"))
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path / "judge.py"


def node(*words: str) -> Any:
    """The reward that words compose, as the command line rewrites them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(runs.ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose("finetune", in_hydra_grammar(list(words))).reward)


def tuned(base: Path, folder: Path, *words: str) -> dict[str, Any]:
    config = composed("finetune", *in_hydra_grammar([*QUICK, *words]))
    remember_programs(OmegaConf.to_container(config, resolve=False))
    check_overrides(config, Parts())
    return tune(tuned_config(RunFolder(base), config), RunFolder(folder))


def test_a_word_names_code_with_the_options_that_it_takes(judge: Path) -> None:
    assert node(f"reward={judge}:Gain", "reward.gain=2") == {
        "_target_": "flowport.reward.from_code",
        "code": f"{judge}:Gain",
        "gain": 2,
        "shift": 0.5,
    }
    assert node(f"reward={judge}:height") == {"_target_": "flowport.reward.from_code", "code": f"{judge}:height"}
    assert node("reward=flowport.reward.LinearReward", "reward.c=[1]")["_target_"] == "flowport.reward.LinearReward"
    assert node("reward=flowport.reward.Legibility")["_partial_"] is True
    assert node(f"reward={judge.parent}/judge.pt", "reward.label=3") == {
        "_target_": "flowport.reward.FromFileReward",
        "path": f"{judge.parent}/judge.pt",
        "label": 3,
    }


def test_a_list_is_a_sum_with_a_weight_for_each(judge: Path) -> None:
    found = node(f"reward=[brightness, {judge}:Gain,{judge}:Gain]", "reward.weights.gain=0", "reward.terms.gain.gain=3")
    assert found["_target_"] == "flowport.reward.SumReward" and "_partial_" not in found
    assert found["weights"] == {"brightness": 1.0, "gain": 0, "gain_2": 1.0}
    assert found["terms"]["gain"]["gain"] == 3 and found["terms"]["gain_2"]["gain"] == "???"
    assert found["terms"]["brightness"]["_target_"] == "flowport.reward.Brightness"
    assert node("reward=[legibility,brightness]")["_partial_"] is True


@pytest.mark.parametrize("folder", ["my judges", "a+b"])
def test_spaces_and_sweeps_keep_their_words(judge: Path, folder: str) -> None:
    apart = judge.parent / folder
    apart.mkdir()
    shutil.copy(judge, apart)
    assert node(f"reward={apart}/judge.py:height")["code"] == f"{apart}/judge.py:height"
    assert in_hydra_grammar(["reward=[a,b],c", "-m"]) == ["-m", "reward=a+b,c"]


REFUSED = {
    "reward={0}/none.py:Gain": "there is no file .*none.py",
    "reward={0}/judge.py:Gian": "judge.py has no Gian; it defines Gain, height",
    "reward={0}/judge.py:Gain": "reward.gain needs a value: write reward.gain=",
    "reward={0}/judge.py:height reward.gian=2": "reward.gian is no option",
    "reward={0}/judge.py:wide": r"reward=wide returned the shape \(8, 2\)",
    "reward={0}/judge.pt": r"reward.path=.*judge.pt is not a file",
    "reward=no_such_package.Judge": "no package no_such_package is installed",
    "reward=[brightness,gian]": "reward=gian does not exist: choose .*, or package.module.Name",
    "reward=brightnes": "reward=brightnes does not exist: choose .*, or package.module.Name, file.py:Name or judge.pt",
    "reward=[]": "is no list of rewards",
    "reward=[{0}/judge.py:height,extent] reward.weights.height=0 reward.weights.extent=0": "all reward.weights are 0",
    "reward={0}/judge.py:black_box method=adjoint_matching": "needs the reward's gradient, which reward=black_box",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_word_is_one_sentence(base: Path, judge: Path, capfd: Any, words: str) -> None:
    given = words.format(judge.parent).split()
    said = runs.here(capfd, "finetune.py", f"run={base}", f"hydra.run.dir={judge.parent}/out", "threads=1", *given)
    assert re.search(REFUSED[words], said.sentence), said.sentence


def test_a_run_with_own_code_is_taken_up_measured_and_translated(base: Path, judge: Path, tmp_path: Path) -> None:
    folder, before = tmp_path / "tuned", digests(base)
    tuned(base, folder, f"reward={judge}:Gain", "reward.gain=2")
    assert digests(base) == before
    assert resume(RunFolder(folder), ["trainer.max_steps=6"])["train/steps"] == 6
    words = OmegaConf.merge(composed("evaluate", f"run={folder}"), {"threads": 1})
    assert isinstance(words, DictConfig)
    assert any(name.startswith("test/") for name in evaluate(RunFolder(folder), words, RunFolder(tmp_path / "e")))
    asked = composed("translate", f"run={folder}", "points=16", "threads=1")
    assert translate(RunFolder(folder), asked, RunFolder(tmp_path / "t"))["points"] == 16
    judge.rename(tmp_path / "moved.py")
    moved = r"there is no file .*judge\.py; where it was moved after a tuning, put it back"
    with pytest.raises(FlowportError, match=moved):
        translate(RunFolder(folder), asked, RunFolder(tmp_path / "u"))
    with pytest.raises(InstantiationException) as found:
        resume(RunFolder(folder), ["trainer.max_steps=8"])
    assert re.search(moved, str(sentence_of(found.value)))


def test_code_of_somebody_else_does_not_run(
    base: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "tuned")
    tuned(base, folder.path, f"reward={judge}:Gain", "reward.gain=2")
    folder.read_config()
    judge.write_text(JUDGE + "\nopened = True\n")
    with pytest.raises(FlowportError, match=r"runs the program .*judge\.py, .*which you have not trained with"):
        folder.read_config()
    for trusted in (str(judge), str(tmp_path)):
        monkeypatch.setenv("FLOWPORT_TRUST", trusted)
        folder.read_config()
    monkeypatch.setenv("FLOWPORT_TRUST", str(tmp_path / "jud"))
    with pytest.raises(FlowportError, match="which you have not trained with"):
        folder.read_config()
    text = folder.config.read_text().replace(f"{judge}:Gain", "os.system")
    folder.config.write_text(text)
    with pytest.raises(FlowportError, match=r"wants to run os\.system at tuning\[0\]\.reward, which is no package"):
        folder.read_config()
    monkeypatch.setenv("FLOWPORT_TRUST", "os")
    folder.read_config()


def test_a_watched_reward_is_logged_and_changes_no_weight(base: Path, judge: Path, tmp_path: Path) -> None:
    sums = f"reward=[{judge}:height,{judge}:Gain,{judge}:black_box]"
    options = ["reward.terms.gain.gain=2", "reward.weights.gain=0", "reward.weights.black_box=0"]
    numbers = tuned(base, tmp_path / "watched", "method=path_weighted_adjoint", "method.late=0.5", sums, *options)
    alone = tuned(base, tmp_path / "alone", "method=path_weighted_adjoint", "method.late=0.5", f"reward={judge}:height")
    assert runs.equal(runs.weights(tmp_path / "watched"), runs.weights(tmp_path / "alone"))
    assert (
        numbers["sampled/reward"] == alone["sampled/reward"] == pytest.approx(numbers["sampled/term_height"], rel=1e-5)
    )
    assert numbers["sampled/base_reward"] == pytest.approx(numbers["sampled/base_term_height"], rel=1e-5)
    assert numbers["sampled/gain_se"] == pytest.approx(numbers["sampled/term_height_gain_se"], rel=1e-4)
    for name in ("height", "gain", "black_box"):
        gain = numbers[f"sampled/term_{name}"] - numbers[f"sampled/base_term_{name}"]
        assert numbers[f"sampled/term_{name}_gain"] == pytest.approx(gain, abs=1e-9)
        assert numbers[f"sampled/term_{name}_se"] > 0
    assert not any("term" in name for name in alone)
    events = (tmp_path / "watched").rglob("*.tfevents*")
    logged = [file for file in events if b"tune/term_black_box" in file.read_bytes()]
    assert logged, "each term is logged while it is tuned"


def test_a_reward_without_mass_is_said_and_ends_in_a_sentence(base: Path, judge: Path, tmp_path: Path) -> None:
    words = ["method=draft", "strength=2", "trainer.max_steps=400", "optimizer.lr=0.1", "starts=32", "threads=1"]
    config = composed("finetune", *words, f"reward={judge}:convex", "reward.power=4")
    check_overrides(config, Parts())
    with pytest.raises(FlowportError, match="no finite mass"):
        tune(tuned_config(RunFolder(base), config), RunFolder(tmp_path / "tuned"))


def test_a_quadratic_beyond_its_limit_is_refused_before_training(base: Path, tmp_path: Path) -> None:
    words = ["reward=quadratic", "reward.c=[0,0]", "reward.q=-100"]
    with pytest.raises(FlowportError, match=r"strength=1 has no tilt: .* exists for strengths below"):
        tuned(base, tmp_path / "tuned", *words)
    assert not (tmp_path / "tuned" / "checkpoints").exists()
    assert torch.isfinite(torch.tensor(tuned(base, tmp_path / "fine", *words, "strength=1e-4")["sampled/reward"]))
