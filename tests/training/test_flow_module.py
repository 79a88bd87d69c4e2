"""The training step: its noise is a function of the run's seed and the batch, and nothing else."""

from typing import Any
from unittest import mock

import lightning
import pytest
import torch

from flowport.distribution import EightGaussians, Moons
from flowport.errors import FlowportError
from flowport.run.build import build
from flowport.training.compose import compose
from flowport.training.flow_module import FlowModule
from flowport.types import Pair
from tests import runs


def ready(*words: str) -> tuple[FlowModule, Pair]:
    run = build(runs.configured(*words))
    trainer: Any = mock.Mock(
        spec=lightning.Trainer,
        global_step=1,
        log_every_n_steps=50,
        accumulate_grad_batches=1,
        global_rank=0,
        optimizers=[],
    )
    run.module._trainer = trainer
    run.module.on_train_start()
    return run.module, run.data.train.at(0)


def loss(module: FlowModule, pair: Pair, batch: int) -> torch.Tensor:
    module.batches = batch
    return module.training_step(pair, 0).detach()


def test_the_loss_depends_on_seed_and_batch_alone() -> None:
    module, pair = ready()
    torch.manual_seed(1)
    first = loss(module, pair, 4)
    torch.manual_seed(2)
    assert torch.equal(loss(module, pair, 4), first)
    assert not torch.equal(loss(module, pair, 5), first)
    again, same = ready()
    assert torch.equal(same.source.x, pair.source.x)
    assert torch.equal(loss(again, same, 4), first)
    other, pair = ready("seed=1")
    assert not torch.equal(loss(other, pair, 4), first)


def test_dropout_is_seeded_by_the_batch() -> None:
    module, pair = ready()
    module.field.network = torch.nn.ModuleList([module.field.network, torch.nn.Dropout(0.5)])
    inner = module.field.network

    class Dropped(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return inner[1](inner[0](*given))

    module.field.network = Dropped()
    first = loss(module, pair, 3)
    torch.rand(100)
    assert torch.equal(loss(module, pair, 3), first)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_loss_that_is_not_finite_is_flagged_and_later_ones_do_not_move_the_flag(value: float) -> None:
    module, pair = ready()
    loss(module, pair, 0)
    module.check_losses()
    bad = Pair(pair.source, pair.target.with_x(torch.full_like(pair.target.x, value)))
    for step, batch in ((7, pair), (8, bad), (9, pair), (10, bad)):
        module._trainer.global_step = step  # type: ignore[union-attr]
        loss(module, batch, step)
    for _ in range(2):
        with pytest.raises(FlowportError, match="training step 8"):
            module.check_losses()


def test_training_changes_the_field_and_validation_reads_the_average() -> None:
    module, pair = ready()
    with torch.no_grad():
        for p in module.field.parameters():
            p.fill_(float("nan"))
    with mock.patch.object(module, "log") as log:
        module.validation_step(pair, 0)
    assert bool(torch.isfinite(log.call_args.args[1]))


def test_a_flow_is_validated_without_a_training(tmp_path):
    flow, data = compose(EightGaussians(), Moons())
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    (found,) = trainer.validate(flow, data, verbose=False)
    assert found["val/loss"] > 0
