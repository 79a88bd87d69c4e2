"""What a training step logs beside its loss, in numbers that are known otherwise."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from flowport.coupling import Coupling, ExactCoupling, IndependentCoupling, SinkhornCoupling
from flowport.distribution import EightGaussians, Moons
from flowport.network import MLP
from flowport.training.callback import StepLogger
from flowport.training.compose import compose
from flowport.training.logger import TensorboardLogger as Board


class Noted(Board):
    """Everything that is logged, by step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.seen.setdefault(step or 0, {}).update(metrics)


class Norms(lightning.Callback):
    """The norm of the gradient after clipping, of every step."""

    def __init__(self) -> None:
        self.clipped: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        squares = [p.grad.square().sum() for p in module.field.parameters()]
        self.clipped.append(float(torch.stack(squares).sum().sqrt()))


def trained(
    folder: Path, coupling: Coupling, clip: float | None = None, accumulated: int = 1, **options: Any
) -> tuple[dict[int, dict[str, float]], Any, list[float]]:
    flow, data = compose(EightGaussians(), Moons(), coupling=coupling, network=MLP, optimizer=torch.optim.SGD)
    data.batch = data.train.batch = 16
    for name, value in options.items():
        setattr(data, name, value)
    board, norms = Noted(folder), Norms()
    trainer = lightning.Trainer(
        max_steps=6,
        accelerator="cpu",
        callbacks=[StepLogger(), norms],
        logger=board,
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=clip,
        accumulate_grad_batches=accumulated,
    )
    trainer.fit(flow, data)
    return board.seen, data, norms.clipped


@pytest.mark.parametrize("options", [{}, {"pool": 4}, {"prefetch": 3}, {"pool": 2, "prefetch": 5}])
@pytest.mark.parametrize("coupling", [ExactCoupling(), SinkhornCoupling(), IndependentCoupling()])
def test_the_facts_are_those_of_the_batch_of_the_step(tmp_path, coupling, options):
    """Also where batches are coupled in pools and drawn ahead."""
    seen, data, _ = trained(tmp_path, coupling, **options)
    assert sorted(seen) == [1, 3, 5]
    for step, numbers in seen.items():
        known = data.train.facts_of(step)
        batch = data.train.at(step)
        known["pair_cost"] = float((batch.source.x - batch.target.x).square().sum(1).mean())
        facts = {k.removeprefix("coupling/"): float(v) for k, v in numbers.items() if k.startswith("coupling/")}
        assert facts == pytest.approx(known, rel=1e-5)


def test_nothing_is_coupled_a_second_time(tmp_path):
    class Counted(ExactCoupling):
        calls = 0

        def __call__(self, pair, generator):
            Counted.calls += 1
            return super().__call__(pair, generator)

    trained(tmp_path, Counted())
    assert Counted.calls <= 7, "one a step, and the one that is drawn ahead of the end"


def test_the_norm_is_that_of_the_gradient_before_clipping(tmp_path):
    free, _, norms = trained(tmp_path / "free", ExactCoupling())
    clipped, _, cut = trained(tmp_path / "clipped", ExactCoupling(), clip=1e-4)
    for k in (1, 3, 5):
        assert float(free[k]["train/gradient_norm"]) == pytest.approx(norms[k], rel=1e-5)
        assert cut[k] < 1.01e-4 < 100 * cut[k] < float(clipped[k]["train/gradient_norm"])
    assert float(free[1]["train/learning_rate"]) == pytest.approx(1e-3)


def test_the_norm_of_accumulated_gradients_is_that_of_their_own_step(tmp_path):
    seen, _, norms = trained(tmp_path, ExactCoupling(), accumulated=2)
    assert sorted(seen) == [1, 3, 5]
    for step, numbers in seen.items():
        assert float(numbers["train/gradient_norm"]) == pytest.approx(norms[2 * step + 1], rel=1e-5)
