"""Why the training step of a module cannot be captured in a CUDA graph."""

from collections.abc import Iterable, Iterator

import torch
from lightning import Callback, LightningModule, Trainer

from flowport.training.device_optimizer import ZERO_AT_FIRST

GRADIENT_HOOKS = ("on_before_backward", "on_after_backward", "on_before_zero_grad", "on_before_optimizer_step")
MODULE_HOOKS = (*GRADIENT_HOOKS, "backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")
"""Hooks of Lightning's that a replayed step has no place for."""


def obstacle_of(module: LightningModule, base: type[LightningModule], parts: Iterable[object]) -> str | None:
    """The first reason why the training step of a module cannot be captured; None where it can.

    Args:
        module: A module whose trainer has started.
        base: Class whose hooks of the gradient are those of the graph.
        parts: What computes the loss, each of which may declare ``capturable = False``.
    """
    blind = (f"{type(part).__name__} is not declared capturable" for part in parts if not _capturable(part))
    for reasons in (_of_trainer(module.trainer), _of_hooks(module, base), blind):
        for reason in reasons:
            return reason
    return None


def _capturable(part: object) -> bool:
    return bool(getattr(part, "capturable", True))


def _of_trainer(trainer: Trainer) -> Iterator[str]:
    if trainer.world_size > 1:
        yield "several processes share it"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        yield "precision 16-mixed scales the loss on the host; use bf16-mixed"
    if torch.is_anomaly_enabled():
        yield "trainer.detect_anomaly reads every gradient"
    for optimizer in trainer.optimizers:
        if type(optimizer) not in ZERO_AT_FIRST:
            yield f"{type(optimizer).__name__} has no form or no state for a graph; use Adam or AdamW"


def _of_hooks(module: LightningModule, base: type[LightningModule]) -> Iterator[str]:
    for hook in MODULE_HOOKS:
        if getattr(type(module), hook) is not getattr(base, hook):
            yield f"{type(module).__name__} overrides {hook}"
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        for hook in GRADIENT_HOOKS:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                yield f"the callback {type(callback).__name__} has {hook}"
