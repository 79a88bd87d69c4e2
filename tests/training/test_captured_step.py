"""The captured step: the hooks around a graph give the weights of the same training without one, bit by bit.

A CPU has no graphs: a stand-in, whose replay calls the recorded operations again, takes their place. What only CUDA can
show is marked.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from flowport.coupling import IndependentCoupling
from flowport.data.pairing import tensors_of
from flowport.distribution import EightGaussians, Moons
from flowport.errors import FlowportError
from flowport.network import MLP
from flowport.objective.time_sampler import AdaptiveTimeSampler
from flowport.path import FunctionsPath
from flowport.run import stage
from flowport.run.build import Parts, flow_of
from flowport.run.run_folder import RunFolder
from flowport.training.captured_step import CapturedStep
from flowport.training.compose import compose as composed
from flowport.training.flow_module import FlowModule
from flowport.types import Pair
from tests import runs
from tests.test_experiments import NAMES, small_data
from tests.training.repetition import Repetition

ROOT = Path(__file__).parents[2]
NO_FLOW = {"classifier", "known_processes"}
"""Experiments that train no flow."""
QUIET: dict[str, Any] = {**runs.NOTHING_BUT_STEPS, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _one_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The average without a graph is computed as in one, so that both can be equal bit by bit."""

    def update_ema(self: FlowModule, step: int) -> None:
        self.average(torch.full((), self.rest(step)))

    monkeypatch.setattr(FlowModule, "update_ema", update_ema)


def trained(config: Any, parts: Parts, captured: bool, steps: int = 4) -> tuple[FlowModule, lightning.Trainer]:
    flow, data, _ = flow_of(config, parts)
    flow.recording = Repetition if captured else None
    options = {k: v for k, v in config.trainer.items() if k.startswith(("gradient", "accumulate", "precision"))}
    trainer = lightning.Trainer(max_steps=steps, **options, **QUIET)
    trainer.fit(flow, data)
    return flow, trainer


def moments(trainer: lightning.Trainer) -> list[torch.Tensor]:
    return [value for state in trainer.optimizers[0].state.values() for value in state.values()]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_FLOW])
def test_every_experiment_trains_alike_with_and_without_a_graph(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*small_data(name, tmp_path, monkeypatch), "data.batch=8"])
    parts = Parts()
    eager, first = trained(config, parts, captured=False)
    graph, second = trained(config, parts, captured=True)
    assert graph.captured is None and graph.batches == eager.batches == 4, "the graph is freed at the end"
    assert runs.equal(graph.state_dict(), eager.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(moments(second), moments(first), strict=True))
    assert [group["lr"] for group in second.optimizers[0].param_groups] == [
        group["lr"] for group in first.optimizers[0].param_groups
    ]


class Counted(Repetition):
    made: ClassVar[list["Counted"]] = []

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        Counted.made.append(self)


WORDS = [
    ["trainer.accumulate_grad_batches=3"],
    ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.01"],
    ["trainer.gradient_clip_val=0.01", "+trainer.gradient_clip_algorithm=value"],
    ["trainer.gradient_clip_val=0.01", "+trainer.gradient_clip_algorithm=norm"],
    ["time_sampler@objective.time_sampler=adaptive"],
    ["time_sampler@objective.time_sampler=stratified"],
    ["time_sampler@objective.time_sampler=beta", "weighting@objective.weighting=cosine"],
    ["scheduler=cosine", "optimizer=adamw"],
    ["optimizer=adamw", "+optimizer.amsgrad=true"],
    ["objective=shortcut"],
    ["path=brownian_bridge", "prediction=bridge"],
    ["path=variance_exploding", "prediction=edm"],
    ["trainer.precision=bf16-mixed"],
    ["trainer.precision=bf16-mixed", "+optimizer.fused=true", "trainer.gradient_clip_val=0.5"],
    [
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=0.01",
        "optimizer=adamw",
        "scheduler=cosine",
    ],
    ["data.prefetch=2"],
]


@pytest.mark.parametrize("words", WORDS)
def test_every_option_trains_alike_with_and_without_a_graph(words: list[str]) -> None:
    config, parts = runs.configured(*words, "trainer.max_steps=12"), Parts()
    eager, first = trained(config, parts, captured=False)
    graph, second = trained(config, parts, captured=True)
    assert runs.equal(graph.state_dict(), eager.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(moments(second), moments(first), strict=True))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.01"],
        ["time_sampler@objective.time_sampler=adaptive", "optimizer=adamw"],
    ],
)
def test_a_whole_run_is_that_of_a_run_without_a_graph(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its callbacks, validation, checkpoints and metrics; and a resumed one equals both."""
    words = [*words, "trainer.max_steps=12", "trainer.log_every_n_steps=4"]
    for name in ("eager", "graph", "resumed", "switched", "back"):
        (tmp_path / name).mkdir()
    numbers = runs.run(tmp_path / "eager", *words)

    def recorded(on: bool) -> None:
        monkeypatch.setattr("flowport.training.captured_module.CapturedModule.recording", Counted if on else None)

    Counted.made.clear()
    recorded(True)
    assert runs.measured(runs.run(tmp_path / "graph", *words)) == runs.measured(numbers)
    assert len(Counted.made) == (1 if accumulated_batches(words) == 1 else 2)
    assert Counted.made[0].replays == 12
    wanted = whole_checkpoint(tmp_path / "eager")
    same(whole_checkpoint(tmp_path / "graph"), wanted)
    for name, first, second in (("resumed", True, True), ("switched", False, True), ("back", True, False)):
        folder = tmp_path / name
        recorded(first)
        with monkeypatch.context() as broken:
            broken.setattr(FlowModule, "training_step", breaking(9 * accumulated_batches(words)))
            with pytest.raises(Broken):
                runs.run(folder, *words)
        assert whole_checkpoint(folder)["global_step"] == 7
        recorded(second)
        stage.resume(RunFolder(folder), [])
        same(whole_checkpoint(folder), wanted)


def accumulated_batches(words: list[str]) -> int:
    return next((int(word[-1]) for word in words if "accumulate" in word), 1)


class Broken(Exception):
    """The end of a run."""


def breaking(batches: int) -> Any:
    plain = FlowModule.training_step

    def training_step(self: FlowModule, pair: Pair, batch_idx: int) -> torch.Tensor:
        if self.batches == batches:
            raise Broken
        return plain(self, pair, batch_idx)

    return training_step


def whole_checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Weights, averages, buffers, moments, rates and options are equal."""
    assert runs.equal(found["state_dict"], wanted["state_dict"])
    (ours,), (theirs,) = found["optimizer_states"], wanted["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    assert all(runs.equal(ours["state"][k], theirs["state"][k]) for k in ours["state"])
    assert found["lr_schedulers"] == wanted["lr_schedulers"]
    assert found["global_step"] == wanted["global_step"]


def fitted(
    *callbacks: lightning.Callback, flow: FlowModule | None = None, graph: bool = True, **options: Any
) -> FlowModule:
    made, data = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
    flow = flow or made
    flow.recording = Repetition if graph else None
    data.batch = data.train.batch = 16
    lightning.Trainer(max_steps=4, callbacks=[*callbacks], **QUIET, **options).fit(flow, data)
    return flow


class Norms(lightning.Callback):
    """Norms of the gradient, losses, and whether steps were captured."""

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []
        self.captured: list[bool] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.captured.append(module.captured is not None)
        self.norms.append(module.gradient_norm.clone())


def test_the_norm_of_the_gradient_is_that_before_clipping() -> None:
    options = {"gradient_clip_val": 1e-3}
    graph, eager = Norms(), Norms()
    fitted(graph, **options)
    fitted(eager, graph=False, **options)
    assert graph.captured == [True] * 4 and eager.captured == [False] * 4
    assert torch.equal(torch.stack(graph.norms), torch.stack(eager.norms))
    assert bool((torch.stack(graph.norms) > 1e-2).all())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("algorithm", "most"), [(None, 0.01), ("norm", 0.01), ("value", 1e-4)])
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_clipped_as_lightning_does(
    precision: str, algorithm: str | None, most: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it does not: those of a fused optimiser under bf16-mixed."""

    def state() -> dict[str, torch.Tensor]:
        flow = made(optimizer=partial(torch.optim.SGD, lr=0.1, fused=fused))
        clip = {"gradient_clip_val": most, "gradient_clip_algorithm": algorithm}
        return fitted(flow=flow, graph=False, precision=precision, **clip).state_dict()

    ours = state()
    monkeypatch.setattr("lightning.pytorch.plugins.precision.amp._optimizer_handles_unscaling", lambda optimizer: False)
    monkeypatch.delattr("flowport.training.captured_module.CapturedModule.configure_gradient_clipping")
    assert runs.equal(ours, state())


class Hooked(lightning.Callback):
    def on_after_backward(self, trainer: Any, module: Any) -> None: ...


class Overriding(FlowModule):
    def configure_gradient_clipping(self, *given: Any, **options: Any) -> None: ...


class Reading(MLP):
    capturable = False


def overriding() -> FlowModule:
    flow, _ = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
    flow.__class__ = Overriding
    return flow


def made(**parts: Any) -> FlowModule:
    return composed(EightGaussians(), Moons(), coupling=IndependentCoupling(), **parts)[0]


@pytest.mark.parametrize(
    ("reason", "make", "callbacks", "options"),
    [
        ("the callback Hooked has on_after_backward", made, [Hooked()], {}),
        ("Overriding overrides configure_gradient_clipping", overriding, [], {}),
        (
            "Reading is not declared capturable",
            lambda: made(network=Reading),
            [],
            {},
        ),
        (
            "FunctionsPath is not declared capturable",
            lambda: made(path=FunctionsPath(lambda t: 1 - t, lambda t: t)),
            [],
            {},
        ),
        ("SGD has no form or no state for a graph; use Adam", lambda: made(optimizer=torch.optim.SGD), [], {}),
        ("NAdam has no form or no state", lambda: made(optimizer=torch.optim.NAdam), [], {}),
        ("trainer.detect_anomaly reads every gradient", made, [], {"detect_anomaly": True}),
    ],
)
def test_what_cannot_be_captured_trains_without_a_graph_and_says_why(
    reason: str, make: Any, callbacks: Any, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fitted(*callbacks, flow=make(), **options)
    said = [r.message for r in caplog.records if "captured in a CUDA graph" in r.message]
    assert len(said) == 1
    assert reason in said[0]


def test_capture_false_says_nothing_and_captures_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Any] = []

    class Look(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            seen.append(module.captured)

    flow = made()
    flow.capture = False
    fitted(Look(), flow=flow)
    assert seen == [None] * 4
    assert not [r for r in caplog.records if "graph" in r.message]


def test_batches_of_another_shape_end_the_capture_with_one_line_and_the_same_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    class Shrinking(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            plain = trainer.datamodule.train.at

            def at(step: int) -> Pair:
                pair = plain(step)
                return pair if step < 2 else pair.take(slice(5), slice(5))

            trainer.datamodule.train.at = at

    graph = fitted(Shrinking())
    said = [r.message for r in caplog.records if "captured in a CUDA graph" in r.message]
    assert said == ["the training step is not captured in a CUDA graph: the shapes of its batches change"]
    assert runs.equal(graph.state_dict(), fitted(Shrinking(), graph=False).state_dict())


def test_a_change_of_accumulation_ends_the_capture(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Accumulating(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.accumulate_grad_batches = 2

    fitted(Accumulating())
    assert "the number of accumulated batches changes" in caplog.text


def test_half_accumulated_gradients_outlive_a_validation() -> None:
    """Lightning sets all gradients to None before a validation, whose memory a graph still writes to."""
    places: list[list[int]] = []

    class Look(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            places.append([p.grad.data_ptr() for p in module.field.parameters()])

    options = {**QUIET, "limit_val_batches": 1, "accumulate_grad_batches": 2, "val_check_interval": 3}
    flows = [made(), made()]
    for flow, recording in zip(flows, (Repetition, None), strict=True):
        flow.recording = recording
        _, data = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
        more = {"callbacks": [Look()] if recording else [], "max_epochs": 1, "limit_train_batches": 8}
        lightning.Trainer(max_steps=4, **more, **options).fit(flow, data)
    assert len(places) == 8
    assert all(place == places[0] for place in places)


def test_fused_gradients_under_sixteen_mixed_are_clipped_in_their_own_scale() -> None:
    """GradScaler leaves those of a fused optimiser scaled, and Lightning refuses to clip them."""
    flow = made()
    optimizer = torch.optim.SGD(flow.field.parameters(), lr=1.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    flow._trainer = mock.Mock(
        spec=lightning.Trainer, global_step=0, log_every_n_steps=50, precision_plugin=mock.Mock(scaler=scaler)
    )
    for p in flow.field.parameters():
        p.grad = torch.ones_like(p)
    wanted = nn.utils.get_total_norm([p.grad for p in flow.field.parameters() if p.grad is not None])
    scaler.scale(torch.ones(()))
    for p in flow.field.parameters():
        p.grad = 256 * torch.ones_like(p)
    before = [p.detach().clone() for p in flow.field.parameters()]
    flow.configure_gradient_clipping(optimizer, 0.5)
    assert flow.gradient_norm is not None
    torch.testing.assert_close(flow.gradient_norm, wanted)
    scaler.step(optimizer)
    moved = [a.detach() - b for a, b in zip(flow.field.parameters(), before, strict=True)]
    torch.testing.assert_close(nn.utils.get_total_norm(moved), torch.tensor(0.5), rtol=1e-4, atol=0)


def test_a_scheduler_that_changes_betas_ends_the_capture(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fitted(flow=made(scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 20)))
    assert "changes options of the optimiser beside the learning rate" in caplog.text


def test_warm_up_and_capture_change_nothing() -> None:
    """Also for moments that were loaded, and buffers that the loss changes."""
    flow, data = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
    flow.objective.time_sampler = AdaptiveTimeSampler()
    optimizer = torch.optim.Adam(flow.field.parameters())
    pair = data.train.at(0)

    def loss(pair: Pair, generator: torch.Generator) -> torch.Tensor:
        return flow.batch_loss(pair, generator)

    def finish(rest: torch.Tensor) -> torch.Tensor:
        optimizer.step()
        flow.average(rest)
        return torch.zeros(())

    loss(pair, torch.Generator()).backward()
    finish(torch.tensor(0.5))
    parts = [flow.field, flow.ema, flow.objective]
    before = [t.clone() for part in parts for t in part.state_dict().values()]
    state = {p: {k: v.clone() for k, v in values.items()} for p, values in optimizer.state.items()}
    CapturedStep(loss, finish, parts, optimizer, pair, 1, None, Repetition)
    after = [t for part in parts for t in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(torch.equal(optimizer.state[p][k], v) for p, values in state.items() for k, v in values.items())


def test_the_static_batch_is_a_copy() -> None:
    flow, data = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
    pair = data.train.at(0)
    optimizer = torch.optim.Adam(flow.field.parameters())
    step = CapturedStep(flow.batch_loss, lambda rest: rest, [flow], optimizer, pair, 1, None, Repetition)
    other = data.train.at(1)
    kept = pair.source.x.clone()
    step(other, 0, 0.5, True)
    assert torch.equal(pair.source.x, kept)
    assert runs.equal(tensors_of(step.pair), tensors_of(other))


def test_a_part_that_reads_the_device_during_a_capture_is_named_by_one_sentence() -> None:
    recording: list[bool] = []

    class Failing(Repetition):
        def record(self, body: Any) -> None:
            recording.append(True)
            try:
                body()
            finally:
                raise RuntimeError("a capture that ends after an error fails too")

    def loss(pair: Pair, generator: torch.Generator) -> torch.Tensor:
        if recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return FlowModule.batch_loss(flow, pair, generator)

    flow, data = composed(EightGaussians(), Moons(), coupling=IndependentCoupling())
    flow.recording, flow.batch_loss = Failing, loss  # type: ignore[method-assign]
    with pytest.raises(FlowportError, match=r"\(operation not permitted .*capturing\): write capture=false, or"):
        lightning.Trainer(max_steps=1, **QUIET).fit(flow, data)
