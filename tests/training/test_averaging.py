"""The moving average: once per optimiser step, by its recursion, in float32."""

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch

from flowport.coupling import IndependentCoupling
from flowport.distribution import EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.run.build import build
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from flowport.training.compose import compose
from flowport.training.flow_module import FlowModule
from tests import runs


@pytest.mark.parametrize(
    "words", [[], ["trainer.accumulate_grad_batches=3"], ["ema_decay=0.3"], ["trainer.precision=bf16-mixed"]]
)
def test_the_average_is_its_closed_recursion(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ema ← d ema + (1 − d) field with d = min(decay, (1+k)/(10+k)), k from 1, in float64 beside the run's float32."""
    seen: list[tuple[int, list[torch.Tensor], list[torch.Tensor]]] = []
    plain = FlowModule.update_ema

    def spy(self: FlowModule, step: int) -> None:
        plain(self, step)
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in self.ema.parameters())
        field, ema = ([p.detach().double().clone() for p in part.parameters()] for part in (self.field, self.ema))
        seen.append((step, field, ema))

    monkeypatch.setattr(FlowModule, "update_ema", spy)
    config = runs.prepared(tmp_path, *words, "trainer.max_steps=12", "scheduler=constant")
    wanted = [p.detach().double() for p in build(config).module.ema.parameters()]
    train(config, RunFolder(tmp_path))
    assert [step for step, _, _ in seen] == list(range(1, 13)), "once per optimiser step, not per accumulated batch"
    for step, field, ema in seen:
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        wanted = [decay * w + (1 - decay) * p for w, p in zip(wanted, field, strict=True)]
        for w, e in zip(wanted, ema, strict=True):
            torch.testing.assert_close(e, w, rtol=2e-6, atol=1e-7)
    assert not all(torch.allclose(w, p, atol=1e-4) for w, p in zip(wanted, seen[-1][1], strict=True))


def test_buffers_are_copied_and_a_bfloat16_field_is_averaged_in_float32() -> None:
    module = build(runs.configured()).module
    for part in (module.field, module.ema):
        part.register_buffer("running", torch.zeros(3))
        part.register_buffer("count", torch.tensor(0))
    module.field.running.fill_(2.5)
    module.field.count.fill_(7)
    start = [p.clone() for p in module.ema.parameters()]
    module.field.bfloat16()
    with torch.no_grad():
        for p in module.field.parameters():
            p.add_(0.5)
    module.update_ema(0)  # decay 1/10
    assert module.ema.running.tolist() == [2.5] * 3
    assert int(module.ema.count) == 7
    for kept, first, p in zip(module.ema.parameters(), start, module.field.parameters(), strict=True):
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, 0.1 * first + 0.9 * p.detach().float())


def test_the_average_of_a_graph_is_that_of_single_steps_up_to_rounding() -> None:
    found = []
    for as_tensor in (False, True):
        module = build(runs.configured()).module
        with torch.no_grad():
            for p in module.field.parameters():
                p.add_(torch.linspace(-1, 1, p.numel()).view(p.shape))
        module.average(torch.tensor(0.3) if as_tensor else 0.3)
        found.append([p.clone() for p in module.ema.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_the_optimiser_never_sees_the_average() -> None:
    module = build(runs.configured()).module
    optimised = {
        id(p) for group in module.make_optimizer(module.field.parameters()).param_groups for p in group["params"]
    }
    assert optimised == {id(p) for p in module.field.parameters()}
    assert not optimised & {id(p) for p in module.ema.parameters()}


def test_buffers_that_were_moved_between_two_trainings_are_still_copied() -> None:
    module, data = compose(EightGaussians(), Moons(), coupling=IndependentCoupling())
    for part in (module.field, module.ema):
        part.register_buffer("count", torch.tensor(0.0))

    def fit() -> None:
        module.field.count += 8
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        lightning.Trainer(max_steps=2, enable_model_summary=False, limit_val_batches=0, **quiet).fit(module, data)

    fit()
    module.double().float()  # as a move to another device does: buffers become new tensors
    fit()
    assert float(module.ema.count) == 16


def test_the_average_of_any_field_is_float32_and_never_in_training_mode() -> None:
    flow, _ = compose(EightGaussians(), Moons(), coupling=IndependentCoupling())
    field = flow.field.bfloat16().train()
    again = FlowModule(flow.source, flow.target, field, flow.objective, flow.make_optimizer, None, flow.randomness)
    assert {p.dtype for p in again.ema.parameters()} == {torch.float32} != {p.dtype for p in field.parameters()}
    assert all(not part.training for part in again.ema.modules()) and field.training


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_at_which_the_average_never_moves_is_refused(decay: float) -> None:
    with pytest.raises(FlowportError, match=rf"ema_decay={decay} must be in \[0, 1\)"):
        compose(Gaussian(2), Moons(), ema_decay=decay)


def test_a_scheduler_that_sets_rates_itself_is_left_alone_at_a_resume(tmp_path: Path) -> None:
    """OneCycleLR writes its own rates and betas into the optimiser."""

    def made(steps: int, resume: Path | None = None) -> FlowModule:
        module, data = compose(
            EightGaussians(),
            Moons(),
            optimizer=partial(torch.optim.Adam, lr=1e-3),
            scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20),
        )
        trainer = lightning.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.fit(module, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module

    whole = made(8)
    made(4)
    assert runs.equal(made(8, tmp_path / "4.ckpt").state_dict(), whole.state_dict())
