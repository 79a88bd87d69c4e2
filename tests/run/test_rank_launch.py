"""Processes that are started together end together, and what ended them is said once: cheap programs in their stead."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flowport.errors import FlowportError, Stopped
from flowport.run import rank_launch, rank_place
from flowport.run.cli import report_errors
from flowport.run.rank_launch import Processes, handed_over, job_of
from flowport.run.rank_place import Place, alone, environment_of, place_of
from flowport.run.run_folder import RunFolder
from flowport.run.trainer_options import check_trainer, refuse_several, refuse_split
from tests import runs

PROGRAM = """
import json, os, pathlib, signal, sys, time
rank, files = int(os.environ["RANK"]), pathlib.Path(sys.argv[-1]).parent
def say(status, **words):
    (files / f"{rank}.json").write_text(json.dumps({"time": time.time(), **words}))
    os._exit(status)
"""


class Pretending(Processes):
    """Processes that run another program."""

    def __init__(self, files: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(2, files)
        start = subprocess.Popen

        def popen(command, **options):
            return start([sys.executable, "-S", "-c", PROGRAM + program, command[-1]], **options)

        monkeypatch.setattr(rank_launch.subprocess, "Popen", popen)
        monkeypatch.setattr(rank_launch, "GRACE", 0.5)


ENDS = {
    "a refusal of both": ("say(2, refused=f'refused by {rank}')", "refused by 0"),
    "a refusal of one": (
        "if rank: say(2, refused='refused by 1')\ntime.sleep(0.2); say(2, fault='lost the other')",
        "refused by 1",
    ),
    "a refusal beside one that waits": ("if rank: say(2, refused='refused by 1')\ntime.sleep(60)", "refused by 1"),
    "a death": (
        "if rank: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(0.2); say(2, fault='lost the other')",
        "process 1 of 2 was ended by SIGKILL, and the others with it: nothing was saved yet",
    ),
    "an end without a word": ("sys.exit(3 * rank)", "process 1 of 2 was ended by status 3, and"),
    "two faults": ("time.sleep(0.3 * rank); say(2, fault=f'fault {rank}\\n')", "process 0 of 2 failed as shown above"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ended_the_processes_is_said_once(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program, sentence = ENDS[end]
    both = Pretending(tmp_path, program, monkeypatch)
    with pytest.raises(FlowportError) as caught:
        both.run({}, RunFolder(tmp_path / "run"))
    assert str(caught.value).startswith(sentence)
    assert all(process.poll() is not None for process in both.running)
    assert capfd.readouterr().err == ("fault 0\n" if end == "two faults" else "")


def test_a_good_end_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretending(tmp_path, "assert json.loads(pathlib.Path(sys.argv[-1]).read_text()) == {'a': 1}", monkeypatch).run(
        {"a": 1}, RunFolder(tmp_path / "run")
    )


SAVES = """
def save(number, frame):
    say(143, stopped=number, state=f"after step 7 of {rank}")
signal.signal(signal.SIGTERM, save)
(files / f"{rank}.ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("to", ["the command", "one process"])
def test_a_signal_ends_all_with_the_state_of_the_first(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Pretending(tmp_path, SAVES, monkeypatch)

    def send() -> None:
        while len(list(tmp_path.glob("*.ready"))) < 2:
            time.sleep(0.02)
        victims = [os.getpid()] if to == "the command" else [process.pid for process in both.running]
        for pid in victims:
            os.kill(pid, signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with report_errors(), pytest.raises(Stopped, match="stopped by SIGTERM after step 7 of 0"):
        both.run({}, RunFolder(tmp_path / "run"))
    sender.join()
    assert all(process.poll() is not None for process in both.running)


def test_places_are_read_from_the_environment() -> None:
    assert place_of({}) is None
    assert place_of({"RANK": "1", "WORLD_SIZE": "2"}) is None, "of another program"
    assert place_of(environment_of(1, 2, 4000)) == Place(1, 2, "flowport")
    elastic = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4"}
    assert place_of(elastic) == Place(3, 4, "torchrun") and place_of(elastic | {"WORLD_SIZE": "1"}) is None
    task = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    assert place_of(task) == Place(1, 2, "srun")
    assert place_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) is None, "the script of a job, not a task of it"


def test_a_process_alone_has_no_place_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alone() == dict(os.environ)
    for name, value in environment_of(1, 2, 4000).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_JOB_ID", rank_place.OWN} & set(alone())
    assert alone()["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["trainer.devices=2"],
            r"trainer.devices=2 needs a strategy for several processes that flowport supports, not",
        ),
        (["+trainer.num_nodes=2"], r"trainer.num_nodes=2 needs a strategy for several processes"),
        (
            ["trainer=ddp", "trainer.strategy=deepspeed"],
            r"not trainer.strategy=deepspeed: use trainer=ddp.*trainer=fsdp",
        ),
        (["trainer=fsdp", "trainer.precision=16-mixed"], r"use trainer.precision=bf16-mixed or 32-true"),
        (["trainer=ddp", "trainer.accelerator=cuda:1"], r"but trainer.accelerator=cuda:1 is one device"),
    ],
)
def test_several_processes_need_a_strategy_and_devices(words: list[str], sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence):
        check_trainer(runs.configured(*words).trainer)


def test_what_works_in_one_process_refuses_several() -> None:
    refuse_several(runs.configured().trainer, "a duel")
    check_trainer(runs.configured("trainer=ddp").trainer)
    with pytest.raises(FlowportError, match=r"several processes, but a duel works in one: use trainer.devices=1"):
        refuse_several(runs.configured("trainer=ddp").trainer, "a duel")


def test_nodes_need_a_starter(tmp_path: Path) -> None:
    config = runs.configured("trainer=ddp", "trainer.num_nodes=2")
    with pytest.raises(FlowportError, match=r"needs a command on every node: start it by torchrun --nnodes=2"):
        handed_over(config, RunFolder(tmp_path), False)
    assert handed_over(runs.configured(), RunFolder(tmp_path), False) is None


def test_a_job_survives_its_way_as_text(tmp_path: Path) -> None:
    config = runs.configured("trainer=ddp")
    job = json.loads(json.dumps(job_of(config, RunFolder(tmp_path, True), True)))
    assert OmegaConf.create(job["config"]) == OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert (job["folder"], job["trust"], job["resume"]) == (str(tmp_path), True, True)


def test_fine_tuning_refuses_weights_that_are_split() -> None:
    config = runs.configured("trainer=fsdp", "trainer.accelerator=cpu")
    check_trainer(config.trainer)
    with pytest.raises(FlowportError, match="fine-tuning needs all of them in each: use trainer=ddp"):
        refuse_split(config.trainer, "fine-tuning")
    config.trainer.devices = 1
    refuse_split(config.trainer, "fine-tuning")
