"""The captured step in a CUDA graph: the losses of a run without one, exact resumes, checkpoints for any device."""

import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from flowport.run import stage
from flowport.run.build import Parts, flow_of
from flowport.run.run_folder import RunFolder
from flowport.training.flow_module import FlowModule
from tests import runs
from tests.training.test_captured_step import WORDS, Broken, accumulated_batches, breaking, same, whole_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
GPU = ["trainer.accelerator=gpu", "coupling=independent"]
ON_CUDA: dict[str, Any] = {**runs.NOTHING_BUT_STEPS, "accelerator": "gpu", "devices": 1}


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []
        self.captured: list[bool] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach().clone())
        self.captured.append(module.captured is not None)
        if module.gradient_norm is not None:
            self.norms.append(module.gradient_norm.clone())


def trained(words: list[str], capture: bool, steps: int = 40) -> tuple[FlowModule, Losses]:
    config = runs.configured(*words, *GPU, f"trainer.max_steps={steps}")
    flow, data, _ = flow_of(config, Parts())
    flow.capture = capture
    losses = Losses()
    options = {k: v for k, v in config.trainer.items() if k.startswith(("gradient", "accumulate", "precision"))}
    lightning.Trainer(max_steps=steps, callbacks=[losses], **options, **ON_CUDA).fit(flow, data)
    return flow, losses


@pytest.mark.parametrize("words", [[], *WORDS])
def test_captured_losses_are_those_of_single_kernels(words: list[str]) -> None:
    """Equal at the first step up to the order of sums; later steps grow the difference of rounding."""
    eager, plain = trained(words, capture=False)
    graph, replayed = trained(words, capture=True)
    assert all(replayed.captured), "each step is a replay"
    assert not any(plain.captured)
    tolerance = 2e-2 if "trainer.precision=bf16-mixed" in words else 1e-4
    torch.testing.assert_close(torch.stack(replayed.losses), torch.stack(plain.losses), rtol=tolerance, atol=1e-5)
    for ours, theirs in zip(graph.ema.parameters(), eager.ema.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.01", "trainer.val_check_interval=3"],
        ["experiment=gaussian_to_mnist", "metric=[transport_cost]", "trainer.deterministic=true"],
    ],
)
def test_a_captured_run_resumes_bit_by_bit(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*words, *GPU]
    runs.run(tmp_path / "whole", *words)
    with monkeypatch.context() as broken:
        broken.setattr(FlowModule, "training_step", breaking(9 * accumulated_batches(words)))
        with pytest.raises(Broken):
            runs.run(tmp_path / "broken", *words)
    stage.resume(RunFolder(tmp_path / "broken"), [])
    same(whole_checkpoint(tmp_path / "broken"), whole_checkpoint(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["trainer.accelerator=gpu"], ["trainer.accelerator=cpu"]),
        (["trainer.accelerator=cpu"], ["trainer.accelerator=gpu"]),
        (["trainer.accelerator=gpu", "capture=false"], ["capture=true"]),
        (["trainer.accelerator=gpu", "capture=true"], ["capture=false"]),
    ],
)
def test_a_run_goes_on_under_another_device_or_mode(first: list[str], second: list[str], tmp_path: Path) -> None:
    runs.run(tmp_path, "coupling=independent", "scheduler=constant", *first)
    held = whole_checkpoint(tmp_path)
    (group,) = held["optimizer_states"][0]["param_groups"]
    assert type(group["lr"]) is float
    assert not group["capturable"]
    assert group["fused"] is None
    numbers = stage.resume(RunFolder(tmp_path), [*second, "trainer.max_steps=40"])
    assert numbers["train/steps"] == 40
    assert all(v["step"] == 40 for v in whole_checkpoint(tmp_path)["optimizer_states"][0]["state"].values())


def test_a_replayed_step_waits_for_nothing() -> None:
    """Under torch's own watch, from the third step on."""

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if rest[-1] == 8:
                torch.cuda.set_sync_debug_mode("default")

    flow, data, _ = flow_of(runs.configured(*GPU), Parts())
    try:
        lightning.Trainer(
            max_steps=10,
            callbacks=[Watch()],
            gradient_clip_val=1.0,
            **ON_CUDA,
        ).fit(flow, data)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_part_that_reads_the_device_is_refused_by_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    flow, data, _ = flow_of(runs.configured(*GPU), Parts())
    plain = flow.field.network.forward
    flow.field.network.forward = lambda x, t, condition: plain(x, t, condition) * float(x.sum().item() * 0 + 1)
    with pytest.raises(Exception, match="write capture=false, or declare capturable = False"):
        lightning.Trainer(max_steps=2, **ON_CUDA).fit(flow, data)


def test_sixteen_mixed_runs_without_a_graph_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, losses = trained(["trainer.precision=16-mixed", "trainer.gradient_clip_val=0.5"], capture=True, steps=4)
    assert losses.captured == [False] * 4
    assert "precision 16-mixed scales the loss on the host" in caplog.text
