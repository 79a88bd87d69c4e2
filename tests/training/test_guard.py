"""What is not finite is neither measured nor saved."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from flowport.errors import FlowportError
from flowport.run.build import build
from flowport.training.flow_module import FlowModule
from tests import runs


def module(tmp_path: Path) -> Any:
    return build(runs.configured()).module


def test_the_flag_is_told_with_its_step_before_every_save(tmp_path: Path) -> None:
    flow = module(tmp_path)
    flow.on_save_checkpoint({})
    flow.losses.append((12, torch.tensor(torch.nan)))
    for look in (lambda: flow.on_save_checkpoint({}), flow.on_train_end, flow.on_validation_start):
        with pytest.raises(FlowportError, match="not finite at training step 12: lower the learning rate"):
            look()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(value: float, tmp_path: Path) -> None:
    flow = module(tmp_path)
    with torch.no_grad():
        next(flow.field.parameters()).view(-1)[-1] = value
    for look in (lambda: flow.on_save_checkpoint({}), flow.on_train_end, flow.on_validation_start):
        with pytest.raises(FlowportError, match=r"field\.network.* was not finite after training step -1"):
            look()


def test_the_first_bad_step_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is bad at step 5 and good again is still reported, as step 5, and the checkpoint is of step 3."""
    plain = FlowModule.training_step

    def sometimes(self: Any, pair: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step in (5, 6):
            pair = pair.take(slice(None), slice(None))
            pair.source.x.fill_(float("nan"))
            self.zero_grad()
            with mock.patch.object(self, "log"):
                loss = plain(self, pair, batch_idx)
            return torch.nan_to_num(loss) * 0
        return plain(self, pair, batch_idx)

    monkeypatch.setattr(FlowModule, "training_step", sometimes)
    with pytest.raises(FlowportError, match="not finite at training step 5"):
        runs.run(tmp_path, "checkpoint_every=3", "trainer.log_every_n_steps=100")
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 3


def test_no_bad_step_is_forgotten_however_seldom_one_looks(tmp_path: Path) -> None:
    flow = module(tmp_path)

    def many() -> None:
        for step in range(20_000):
            flow.note(step, torch.tensor(1.0))

    flow.note(3, torch.tensor(torch.nan))
    with pytest.raises(FlowportError, match="training step 3"):
        many()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_look_forgets_what_was_finite_and_nothing_else(value: float, tmp_path: Path) -> None:
    flow = module(tmp_path)
    flow.note(0, torch.tensor(1.0))
    flow.check_losses()
    assert not flow.losses
    flow.note(1, torch.tensor(value))
    for _ in range(2):
        with pytest.raises(FlowportError, match="training step 1"):
            flow.check_losses()
    flow.on_fit_start()
    assert not flow.losses, "a new training begins anew"
