"""The command line: every slip gets one sentence on stderr, status 2, no traceback, and no training."""

import errno
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from flowport.run.cli import report_errors, sentence_of
from flowport.run.commands import in_hydra_grammar
from tests import runs

SLIPS = {
    "path=null": "path=null names no member of path: choose brownian_bridge",
    "solver=10": "solver=10 names no member of solver: choose ancestral",
    "metric=[null]": "metric=[null] is no list of metrics: write for instance metric=[wasserstein,mmd]",
    "+metric=mmd": "+metric=mmd chooses a second metric: write metric=[wasserstein,mmd]",
    "+nothing=1": "+nothing=1 sets nothing, which train does not read",
    "~network": "~network takes a part away which every run needs",
    "weighting=min_snr": "write weighting@objective.weighting=min_snr",
    "network.width": "network.width is not key=value",
    "optimizer.lr=-1": "optimizer cannot be built from its options",
    "optimise=test/w3": "optimise=test/w3 is not measured in this run: choose one of",
    "evaluation_items=1": "metric=wasserstein cannot be measured on 1 held-out points",
    "reward=brightness": "has no effect on this run without guidance=reward",
    "network.width=1000000": "GiB of memory were asked for in one piece",
    "scheduler.warmup=-5": "scheduler.warmup=-5 is too small",
    "foo=1": "foo is no option: this command has source, target",
    "path=nonsense": "path=nonsense does not exist: choose brownian_bridge, linear",
    "path.nois=1": "path.nois is no option: path has noise",
    "+path.nois=1": "path.nois is unknown: path takes",
    "+data.nois=1": "data.nois is unknown: data takes batch, pool",
    "experiment=nonsense": "experiment=nonsense does not exist: choose",
    "metric=[nonsense]": "metric=nonsense does not exist: choose",
    "source=digits": "write distribution@source=digits",
    "distribution=moons": "write distribution@source=moons or distribution@target=moons",
    "cost=hog": "write cost@coupling.cost=hog",
    "distribution@source=tensor_file": "source.path needs a value: write source.path=…",
    "distribution@target=gaussian target.event_shape=[3]": "a source point is (2,) and a target point is (3,)",
    "volatility=constant solver=euler_maruyama": "volatility=constant needs a score",
    "volatility=constant solver=heun": "volatility=constant needs a score",
    "volatility=constant solver=heun distribution@source=gaussian coupling=independent": "solver=heun solves ODEs",
    "solver=ancestral": "solver=ancestral needs a score",
    "pairing=paired": "pairing=paired needs stored data of equal length",
    "pairing=paired distribution@source=digits distribution@target=digits network=unet": "over a set of pairs would",
    "pairing=stored": "pairing.path=None is not a file: give the pairs.safetensors",
    "pairing=stored pairing.path=absent.safetensors": "absent.safetensors is not a file",
    "solver=shortcut": "solver=shortcut needs a flow that learnt",
    "objective=shortcut path=brownian_bridge prediction=bridge": "use prediction=velocity with it",
    "prediction=score": "prediction=score needs a score",
    "path=brownian_bridge prediction=target": "prediction=target is undefined on a bridge",
    "prediction=bridge": "prediction=bridge needs a path with noise",
    "coupling=class_conditional": "the source has 8 and the target 2",
    "conditioning=target_label target.continuous_label=true coupling=exact seed=-1": "seed=-1 is too small",
    "data.batch=0": "data.batch and data.pool must be at least 1",
    "data.batch=abc": "data.batch=abc is of the wrong kind: data.batch must be a whole number",
    "data.pool=some": "data.pool=some is of the wrong kind: data.pool must be a whole number or all",
    "data.pool=all": "data.pool=all solves the coupling over stored items",
    "grid.steps=0": "a time grid needs at least 1 step",
    "network.width=abc": "network.width=abc is of the wrong kind",
    "optimizer.lr=abc": "optimizer.lr=abc is of the wrong kind: optimizer.lr must be a number",
    "trainer.max_steps=abc": "trainer.max_steps=abc is of the wrong kind: trainer.max_steps must be a whole number",
    "trainer.max_steps=0": "trainer.max_steps=0 is too small: trainer.max_steps must be at least 1",
    "trainer.max_steps=1.5": "trainer.max_steps=1.5 is of the wrong kind",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu is not on this machine",
    "checkpoint_every=0": "checkpoint_every=0 is too small",
    "evaluation_items=0": "evaluation_items=0 is too small",
    "ema_decay=1": "ema_decay=1 must be in [0, 1): at 1 the average would never move",
    "objective=adjoint_matching": "objective=adjoint_matching does not exist: choose flow_matching",
    "metric=[frechet_distance]": "Moons is not a labelled dataset: choose another target, or metrics",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_gets_one_sentence(slip: str, tmp_path: Path, capfd: Any) -> None:
    said = runs.here(capfd, "train.py", *runs.TINY, runs.QUIET, *slip.split(), f"hydra.run.dir={tmp_path}")
    assert SLIPS[slip] in said.sentence
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("metrics.json"))


class Reducer:
    """Unpickling one of these makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.marker,)


def test_bad_files_are_named(tmp_path: Path, capfd: Any) -> None:
    marker = tmp_path / "marker"
    files = {"text": b"0.1 0.2\n", "empty": b"", "pickled": pickle.dumps(Reducer(marker))}
    for name, held in files.items():
        (tmp_path / f"{name}.npy").write_bytes(held)
    np.save(tmp_path / "objects.npy", np.array([Reducer(marker)] * 20, dtype=object), allow_pickle=True)
    np.save(tmp_path / "none.npy", np.zeros((0, 2)))
    np.save(tmp_path / "nan.npy", np.full((20, 2), np.nan))
    np.save(tmp_path / "wide.npy", np.zeros((20, 5)))
    expected = {
        "absent": "is not a file",
        "text": "cannot be read",
        "empty": "cannot be read",
        "pickled": "cannot be read",
        "objects": "cannot be read",
        "none": "empty array",
        "nan": "NaN or infinite values",
        "wide": "a source point is (5,)",
    }
    for name, words in expected.items():
        said = runs.here(
            capfd,
            "train.py",
            *runs.TINY,
            "distribution@source=tensor_file",
            f"source.path={tmp_path}/{name}.npy",
            f"hydra.run.dir={tmp_path}/out",
        )
        assert words in said.sentence
        assert name in said.sentence or name == "wide"
    assert not marker.exists()


def test_the_real_process_says_the_same(tmp_path: Path) -> None:
    said = runs.command("train.py", *runs.TINY, "solver=ancestral", f"hydra.run.dir={tmp_path}")
    assert SLIPS["solver=ancestral"] in said.sentence


def test_help_does_not_load_torch() -> None:
    loaded = "import atexit, sys\natexit.register(lambda: print('LOADED', {'torch', 'lightning'} & set(sys.modules)))"
    for script in ("train.py", "evaluate.py", "translate.py"):
        said = runs.command(script, "--help", before=loaded)
        assert said.code == 0
        assert "LOADED set()" in said.out
    assert "direction" in said.out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_bad_run_folders_are_told_by_all_three_commands(copy: Path, tmp_path: Path, capfd: Any) -> None:
    checkpoint, config = copy / "checkpoints" / "last.ckpt", copy / ".hydra" / "config.yaml"
    whole, text = checkpoint.read_bytes(), config.read_text()

    def says(words: str) -> None:
        for script in ("train.py", "evaluate.py", "translate.py"):
            out = [] if script == "train.py" else [f"hydra.run.dir={tmp_path}/out"]
            assert words in runs.here(capfd, script, f"run={copy}", *out).sentence

    checkpoint.write_bytes(whole[: len(whole) // 2])
    says("half-written, damaged or holds code")
    checkpoint.write_bytes(b"")
    says("half-written, damaged or holds code")
    torch.save(torch.zeros(3), checkpoint)
    says("it has no state_dict of tensors")
    checkpoint.write_bytes(whole)
    config.write_text(text.replace("width: 64", "width: 32"))
    assert config.read_text() != text
    says("does not fit this run: field.network")
    config.write_text("trainer: [")
    says("is not a readable config")
    config.unlink()
    says("has no .hydra/config.yaml")
    config.write_text(text)
    checkpoint.unlink()
    says("has no checkpoint")
    shutil.rmtree(copy)
    says("is not a folder")


def test_a_checkpoint_without_training_state_cannot_be_resumed(copy: Path, capfd: Any) -> None:
    path = copy / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": torch.load(path, weights_only=True)["state_dict"]}, path)
    assert "no training to resume: it lacks loops" in runs.here(capfd, "train.py", f"run={copy}").sentence


def test_a_resume_changes_values_only(trained: Path, capfd: Any) -> None:
    for word, words in {
        "solver=heun": "whole part",
        "foo=1": "names no key",
        "trainer.foo=1": "names no key",
        "nonsense": "nonsense is not key=value",
        "trainer.max_steps=abc": "a whole number",
        "trainer.max_steps=1,2": "is a sweep",
        "+trainer.max_steps=5": "names no key",
    }.items():
        assert words in runs.here(capfd, "train.py", f"run={trained}", word).sentence


def test_slips_of_evaluate_and_translate(trained: Path, tmp_path: Path, capfd: Any) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((20, 5), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((20, 2), np.nan, dtype=np.float32))
    before = runs.fingerprint(trained)
    slips = {
        "evaluate.py metric=[nonsense]": "metric=nonsense does not exist: choose",
        "evaluate.py weights=foo": "weights=foo is unknown: use weights=ema or weights=raw",
        "evaluate.py solver=ancestral": "solver=ancestral needs a score",
        "evaluate.py grid=uniform grid.steps=0": "a time grid needs at least 1 step",
        "evaluate.py foo=1": "foo is no option: this command has",
        "evaluate.py seed=abc": "seed=abc is of the wrong kind",
        "evaluate.py optimise=test/nonsense": "optimise=test/nonsense is not measured",
        "translate.py direction=sideways": "direction=sideways is unknown: use direction=forward, backward or cycle",
        "translate.py points=0": "points=0 is too small",
        "translate.py label=1": "label=1 is not a label that this flow was trained with",
        f"translate.py input={tmp_path}/wide.npy": "holds points of shape (5,), but this run takes (2,)",
        f"translate.py input={tmp_path}/nan.npy": "NaN or infinite values",
        f"translate.py input={tmp_path}/absent.npy": "is not a file",
    }
    for slip, words in slips.items():
        script, *rest = slip.split()
        said = runs.here(capfd, script, f"run={trained}", *rest, f"hydra.run.dir={tmp_path}/out")
        assert words in said.sentence, slip
    assert "run needs a value" in runs.here(capfd, "evaluate.py", f"hydra.run.dir={tmp_path}/out").sentence
    assert runs.fingerprint(trained) == before


def test_a_flow_that_sees_its_start_has_no_way_back(tmp_path: Path, capfd: Any) -> None:
    runs.run(
        tmp_path / "run",
        "path=brownian_bridge",
        "prediction=target",
        "conditioning=source",
        "solver=ancestral",
        "trainer.max_steps=2",
    )
    for direction in ("backward", "cycle"):
        said = runs.here(
            capfd, "translate.py", f"run={tmp_path}/run", f"direction={direction}", f"hydra.run.dir={tmp_path}/out"
        )
        assert "direction=backward is impossible for a flow that sees its start" in said.sentence


def test_one_failing_job_spares_the_rest_of_a_sweep(tmp_path: Path, capfd: Any) -> None:
    said = runs.here(
        capfd,
        "train.py",
        "-m",
        *runs.TINY,
        runs.QUIET,
        "trainer.max_steps=3",
        "grid.steps=0,8",
        "seed=0,1",
        f"hydra.sweep.dir={tmp_path}",
        "hydra/launcher=basic",
    )
    assert said.code == 1
    assert "Traceback" not in said.err
    assert "2 of 4 jobs did not finish" in said.err and "a time grid needs at least 1 step, not 0" in said.err
    done = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/metrics.json")}
    assert set(done) == {"2", "3"}
    assert done["2"]["test/w2"] != done["3"]["test/w2"]
    assert "at least 1 step" in (tmp_path / "0" / "train.log").read_text()


def test_a_sweep_file_turns_multirun_on_by_itself() -> None:
    with initialize_config_dir(str(runs.ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["sweep=two_dimensions"], return_hydra_config=True)
    assert OmegaConf.select(config, "hydra.mode").name == "MULTIRUN"


def test_a_full_gpu_is_told_with_the_keys_that_lower_it() -> None:
    message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which …"
    told = sentence_of(torch.OutOfMemoryError(message))
    assert told is not None and told.startswith("the GPU has too little memory (it was asked for 20.00 GiB more): in ")
    assert "the GPU has too little memory:" in str(sentence_of(RuntimeError("CUDA error: out of memory")))
    assert all(key in told for key in ("rows=8", "starts", "method.batch", "data.batch", "precision=bf16-mixed"))


def test_the_command_keeps_the_working_directory_importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only a launcher's own folder leaves sys.path: a user's package beside his runs may be trusted and imported."""
    monkeypatch.chdir(tmp_path)
    for called, kept in (("flowport train", True), (str(tmp_path / "train.py"), False)):
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.setattr(sys, "argv", [called])
        with report_errors():
            assert (str(tmp_path) in sys.path) is kept


def test_paths_with_hydra_s_punctuation_and_late_flags(trained: Path, tmp_path: Path, capfd: Any) -> None:
    odd = tmp_path / "coupling=exact,seed=1 (it's)"
    shutil.copytree(trained, odd)
    for command in ("evaluate.py", "translate.py"):
        words = ["evaluation_items=8", "metric=[transport_cost]"] if command == "evaluate.py" else ["points=4"]
        said = runs.here(capfd, command, f"run={odd}", *words, f"hydra.run.dir={tmp_path}/a=b,{command}")
        assert said.code == 0, said.err
        assert json.loads((tmp_path / f"a=b,{command}" / "metrics.json").read_text())["base"] == str(odd)
    assert in_hydra_grammar(["a=1", "-m", "run=x", "run=a=b"]) == ["-m", "a=1", "run=x", "run='a=b'"]
    assert in_hydra_grammar(["run=/a,/b"]) == ["run='/a,/b'"]
    for given, wanted in (
        ("run=/a,/b", "run=/a,/b"),
        ("source.path=/a b,/c(1)", "source.path='/a b','/c(1)'"),
        ("source.path=choice(/a,/b=1)", "source.path=choice(/a,'/b=1')"),
        ("run='/a,b',/c", "run='/a,b',/c"),
        ("hydra.sweep.dir=/a,b", "hydra.sweep.dir='/a,b'"),
        ("run=${hydra:runtime.cwd}/a,b", "run=${hydra:runtime.cwd}/a,b"),
        ("input=[/a,/b]", "input=[/a,/b]"),
        ("seed=0,1", "seed=0,1"),
    ):
        assert in_hydra_grammar(["-m", given]) == ["-m", wanted]
    left = ["reward.reference=[1,2]", "target.path=${x}"]
    assert in_hydra_grammar(left) == left


def test_a_run_without_metrics_is_trained(tmp_path: Path, capfd: Any) -> None:
    words = [*(w for w in runs.TINY if not w.startswith("metric")), runs.QUIET, "trainer.max_steps=1"]
    assert "write metric=[]" in runs.here(capfd, "train.py", *words, "metric=null").sentence
    said = runs.here(capfd, "train.py", *words, "metric=[]", f"hydra.run.dir={tmp_path}")
    assert said.code == 0, said.err
    assert "test/nfe" in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_ends_in_a_sentence(tmp_path: Path, capfd: Any, number: int) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "last.ckpt"))

    words = [*runs.TINY, runs.QUIET, "trainer.max_steps=1", f"hydra.run.dir={tmp_path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", fail)
        sentence = runs.here(capfd, "train.py", *words).sentence
    assert sentence.startswith(f"{tmp_path}/last.ckpt cannot be written: {os.strerror(number)}")


def test_a_flipped_byte_of_a_checkpoint_is_seen(trained: Path, tmp_path: Path, capfd: Any) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    path = copy / "checkpoints" / "last.ckpt"
    content = bytearray(path.read_bytes())
    weights = runs.weights(trained)["field.network.first.weight"].numpy().tobytes()
    content[content.index(weights) + 5] ^= 4
    path.write_bytes(content)
    assert "the checksum of" in runs.here(capfd, "evaluate.py", f"run={copy}", f"hydra.run.dir={tmp_path}/o").sentence
    assert "the checksum of" in runs.here(capfd, "train.py", f"run={copy}").sentence


def test_too_few_held_out_points_are_refused_before_training(tmp_path: Path, capfd: Any) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32))
    sides = [
        *("distribution@source=tensor_file", f"source.path={tmp_path}/a.npy"),
        *("distribution@target=tensor_file", f"target.path={tmp_path}/b.npy"),
    ]
    words = [word for word in runs.TINY if not word.startswith("distribution@")]
    said = runs.here(capfd, "train.py", *words, *sides, f"hydra.run.dir={tmp_path}/run")
    assert said.code == 2 and "metric=wasserstein cannot be measured on 1 held-out points" in said.sentence
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_relative_paths_are_those_of_the_caller_also_under_chdir(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    words = [word for word in runs.TINY if not word.startswith("distribution@source")]
    sides = ["distribution@source=tensor_file", "source.path=a.npy", "hydra.job.chdir=true"]
    said = runs.here(capfd, "train.py", *words, *sides, f"hydra.run.dir={tmp_path}/run")
    assert said.code == 0, said.err
