"""Compiled networks: the same training, names of weights, averages, files and messages as without compilation.

A backend that runs what it is given, and counts it, stands for the compiler where no law is about compiled numbers.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import flowport as fp
from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian, Mixture
from flowport.errors import FlowportError
from flowport.finetuning.adapter import ControlAdapter, FullAdapter, ValueAdapter
from flowport.finetuning.method import PathWeighted
from flowport.network import MLP, ADMUNet, PatchUNet
from flowport.objective import ShortcutObjective
from flowport.objective.time_sampler import UniformTimeSampler
from flowport.randomness import Randomness
from flowport.reward import LinearReward
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.training import compilation
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Condition
from tests import runs
from tests.network.test_compile_option import Counting
from tests.network.test_networks import CONDITIONS, SMALL
from tests.test_configs import composed
from tests.training.repetition import Repetition

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Counting:
    torch._dynamo.reset()
    counting = Counting()
    monkeypatch.setattr(compilation, "BACKEND", counting)
    return counting


def compiled(module: nn.Module) -> list[str]:
    """The compiled modules in a module."""
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]


def fitted(network: Any, shape: tuple[int, ...], recording: Any = None, device: str = "cpu", **parts: Any) -> Any:
    """The module that was trained for three steps between Gaussians of this shape, with a validation after each."""
    sides = Gaussian(event_shape=list(shape)), Gaussian(event_shape=list(shape), mean=1.0)
    module, data = compose(*sides, network=network, coupling=IndependentCoupling(), **parts)
    data.batch, data.validation_items, module.recording = 6, 10, recording
    options = {**QUIET, "max_steps": 3, "limit_train_batches": 3, "val_check_interval": 1, "max_epochs": 1}
    lightning.Trainer(accelerator=device, devices=1, **options).fit(module, data)
    return module


@pytest.mark.parametrize("name", [name for name in SMALL if " " not in name])
def test_training_compiles_one_graph_and_changes_no_bit_and_no_name(name: str, backend: Counting) -> None:
    kind, options, shape = SMALL[name]
    plain = fitted(partial(kind, **options), shape)
    assert backend.graphs == [] and compiled(plain) == []
    made = fitted(partial(kind, **options, compile=True), shape)
    assert len(backend.large) == 1, "the batches of training share a graph; the average has none"
    assert compiled(made) == ["field.network"]
    assert runs.equal(made.state_dict(), plain.state_dict())


def test_an_objective_that_calls_the_network_in_several_ways(backend: Counting) -> None:
    network = partial(PatchUNet, width=8, embedding=16)
    made, plain = (
        fitted(
            partial(network, compile=chosen),
            (1, 8, 8),
            objective=ShortcutObjective(UniformTimeSampler()),
        )
        for chosen in (True, False)
    )
    assert 1 <= len(backend.large) <= 4
    assert runs.equal(made.state_dict(), plain.state_dict())


def test_a_step_that_is_replayed_holds_the_compiled_network(backend: Counting) -> None:
    network = partial(PatchUNet, width=8, embedding=16)
    plain = fitted(network, (1, 8, 8), Repetition)
    made = fitted(partial(network, compile=True), (1, 8, 8), Repetition)
    assert compiled(made) == ["field.network"]
    assert runs.equal(made.state_dict(), plain.state_dict())
    assert alone(count_graphs) == ["1"]  # the type checker's stack, which it guards, is another in the warm-up


def count_graphs() -> None:
    counting = compilation.BACKEND = Counting()
    fitted(partial(MLP, compile=True), (2,), Repetition)
    print("said:", len(counting.large))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_captured_step_of_a_compiled_network_gives_the_numbers_of_an_eager_one() -> None:
    torch._dynamo.reset()
    network = partial(PatchUNet, width=8, embedding=16)
    plain, made = (fitted(partial(network, compile=c), (1, 8, 8), device="gpu").cpu() for c in (False, True))
    assert compiled(made) == ["field.network"]
    torch.testing.assert_close(made.state_dict(), plain.state_dict(), rtol=1e-2, atol=5e-3)  # three steps of 1e-3


def test_a_copy_of_a_compiled_field_is_not_compiled(backend: Counting) -> None:
    made = fitted(partial(MLP, compile=True), (2,))
    assert compiled(made.field) == ["network"] and compiled(made.ema) == []
    assert compiled(deepcopy(made.field)) == []
    assert deepcopy(made.field).network.to_compile


def test_a_run_is_saved_resumed_and_restored_as_without_compilation(
    tmp_path: Path, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    runs.run(plain)
    assert backend.large == []
    numbers = runs.run(whole, "network.compile=true")
    assert len(backend.large) == 1
    assert runs.equal(runs.weights(whole), runs.weights(plain))

    def missing(*args: Any, **options: Any) -> Any:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", missing)
    torch._dynamo.reset()
    for weights in ("ema", "raw"):
        for data in (True, False):
            run = restore(RunFolder(whole), OmegaConf.create({"weights": weights}), data=data)
            assert compiled(run.module) == []
            x = torch.randn(3, 2)
            assert run.module.ema.velocity(x, torch.rand(3), Condition()).shape == x.shape
    evaluated = run_again(whole)
    assert evaluated["test/w2"] == numbers["test/w2"]


def test_a_run_is_resumed_with_and_without_compilation(tmp_path: Path, backend: Counting) -> None:
    ways = {
        "plain": ("false", "false"),
        "compiled": ("true", "true"),
        "on": ("false", "true"),
        "off": ("true", "false"),
    }
    for name, (first, then) in ways.items():
        runs.run(tmp_path / name, f"network.compile={first}", "trainer.max_steps=7")
        torch._dynamo.reset()  # a new process has no graphs, and this one would replay those of the first seven steps
        seen = len(backend.large)
        resume(RunFolder(tmp_path / name), ["trainer.max_steps=20", f"network.compile={then}"])
        assert (len(backend.large) > seen) == (then == "true")
        assert runs.equal(runs.weights(tmp_path / name), runs.weights(tmp_path / "plain"))


def run_again(folder: Path) -> dict[str, Any]:
    from flowport.run.evaluate import evaluate

    out = RunFolder(folder.parent / "evaluated")
    words = composed("metric=[wasserstein]", f"run={folder}", primary="evaluate")
    return evaluate(RunFolder(folder), words, out)


def test_a_flow_from_python_is_saved_and_loaded_without_a_compiler(
    tmp_path: Path, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    x1 = torch.randn(200, 2)
    options = {"steps": 4, "progress": False, "device": "cpu", "batch": 16}
    flow = fp.fit(fp.Gaussian(2), x1, network=partial(MLP, compile=True), **options)
    assert len(backend.large) == 1
    flow.save(tmp_path)
    monkeypatch.setattr(torch, "compile", None)
    again = fp.load(tmp_path)
    assert again.field.network.to_compile
    assert torch.equal(again.sample(5), flow.sample(5))


ADAPTERS = {
    "control": partial(ControlAdapter, network=partial(MLP, width=8, compile=True)),
    "full": FullAdapter,
    "value": partial(ValueAdapter, network=partial(MLP, width=8, compile=True)),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_fine_tuning_compiles_what_it_trains_and_not_its_base(
    name: str, backend: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []
    for wanted in (False, True):
        sides = Gaussian(2), Mixture([1, 1], [[-1.5, 0], [1, 1]], [0.3, 0.2])
        network = partial(MLP, width=8, compile=wanted)
        base, data = compose(*sides, coupling=IndependentCoupling(), network=network)
        adapter: Any = ADAPTERS[name]
        if name != "full":
            adapter = partial(adapter.func, network=network)
        adam = partial(torch.optim.Adam, lr=1e-2)
        parts = base.ema, adapter, PathWeighted(), LinearReward([0.5, -0.4]), 0.8, adam, None, Randomness(3)
        tuned, data.batch = FineTuneModule(base.source, base.target, *parts), 8
        with caplog.at_level(logging.INFO):
            lightning.Trainer(max_steps=3, limit_val_batches=0, accelerator="cpu", **QUIET).fit(tuned, data)
        ends.append(tuned)
    plain, made = ends
    assert compiled(plain) == []
    wanted = {"control": ["field.adapter.network"], "full": ["field.adapter.copy.network"], "value": []}
    assert compiled(made) == wanted[name]
    assert len(backend.large) == len(wanted[name])
    assert ("network of adapter=value is not compiled" in caplog.text) == (name == "value")
    assert runs.equal(made.state_dict(), plain.state_dict())


def test_a_machine_without_a_compiler_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    calls = []

    def none(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        raise RuntimeError("Compiler: c++ is not found.\nmore")

    monkeypatch.setattr(compilation, "BACKEND", none)
    with pytest.raises(FlowportError) as said:
        fitted(partial(MLP, compile=True), (2,))
    assert "c++ is not found" in str(said.value) and "\n" not in str(said.value)
    assert "write network.compile=false" in str(said.value)
    assert len(calls) == 1


ALONE = "import sys; sys.path.insert(0, {root!r}); from tests.training.test_compilation import {function} as f; f()"
"""A process whose functions no checker of types has wrapped: checkpointing cannot be compiled through it."""


def alone(function: Callable[[], None], **variables: str) -> list[str]:
    """What a function of this file prints in a process of its own."""
    code = ALONE.format(root=str(runs.ROOT), function=function.__name__)
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.removeprefix("said: ") for line in done.stdout.splitlines() if line.startswith("said: ")]


def train_with_and_without() -> None:
    for wanted in (True, False):
        try:
            print("said:", compiled(fitted(partial(MLP, compile=wanted), (2,))))
        except FlowportError as error:
            print("said:", error)


@pytest.mark.slow
def test_without_a_cpp_compiler_the_sentence_is_said_and_eager_training_goes_on(tmp_path: Path) -> None:
    nowhere = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    refused, trained = alone(train_with_and_without, **nowhere)
    assert refused.startswith("network.compile=true finds no compiler that works on this machine (")
    assert "write network.compile=false" in refused and trained == "[]"
    assert alone(train_with_and_without, **nowhere, TORCH_COMPILE_DISABLE="1")[1] == "[]"


def compare_numbers() -> None:
    plain, made = (
        fitted(partial(MLP, width=16, compile=wanted), (2,), optimizer=partial(torch.optim.SGD, lr=0.1))
        for wanted in (False, True)
    )
    assert compiled(made) == ["field.network"]
    torch.testing.assert_close(made.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    net = ADMUNet((2, 8, 8), CONDITIONS["none"], multipliers=(1,), attention=(), checkpointing=True).train()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t, gradients = torch.randn(5, 2, 8, 8), torch.rand(5), []
    for wanted in (False, True):
        if wanted:
            net.compile(backend=compilation.BACKEND, dynamic=False, fullgraph=True)
        net.zero_grad()
        y = net(x, t, Condition())
        y.square().sum().backward()
        gradients.append([y.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    print("said: same")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_default_backend_gives_the_same_numbers() -> None:
    assert alone(compare_numbers) == ["same"]
