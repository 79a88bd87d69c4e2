"""What a config that was found in a folder, not written here, may build: a stranger's run folder runs no code."""

import contextlib
import importlib
import os
from typing import Any

import lightning
import torch
import torchmetrics

from flowport.errors import FlowportError

PACKAGES = ("flowport.", "torch.nn.", "torch.optim.", "lightning.Trainer", "torchmetrics.")
"""Prefixes of the class names that a restored config may hold."""
BASES = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torchmetrics.Metric,
    lightning.LightningModule,
    lightning.LightningDataModule,
    lightning.Callback,
    lightning.Trainer,
)
"""Base classes of what a restored config may build, beside the families of flowport."""


def check_config(node: Any, path: str, key: str = "") -> None:
    """Check that a config builds only classes of flowport, torch and Lightning, and refers only to its own keys.

    Args:
        node: The config as plain containers.
        path: Its file, for messages.
        key: Its place in the file.

    Raises:
        FlowportError: For any other ``_target_`` and for a resolver such as ``${oc.env:HOME}``.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(node["_target_"], path, key)
        for name, value in node.items():
            check_config(value, path, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            check_config(value, path, f"{key}[{number}]")
    elif isinstance(node, str) and "${" in node and ":" in node[node.index("${") :]:
        raise FlowportError(
            f"{path} asks for a resolver at {key} ({node}): a restored run may only refer to its own keys"
        )


def _check_target(target: Any, path: str, key: str) -> None:
    """Importing alone can run code (``idlelib.idle``, ``pip.__main__``), so other packages are not even imported."""
    if not isinstance(target, str):
        raise FlowportError(f"{path} has no class name at {key}._target_: {target!r}")
    module, _, name = target.rpartition(".")
    own = {f"{name.strip()}." for name in os.environ.get("FLOWPORT_TRUST", "").split(",") if name.strip()}
    found = None
    if target.startswith((*PACKAGES, *own)) and "__main__" not in module:
        with contextlib.suppress(Exception):  # whatever a module raises when it is imported
            found = getattr(importlib.import_module(module), name)
    if not _is_part(found):
        raise FlowportError(
            f"{path} wants to build {target} at {key}, which is not a class of flowport, torch.nn, torch.optim or "
            "Lightning: a restored run may build nothing else, unless you trust its package (FLOWPORT_TRUST=package)"
        )


def _is_part(found: object) -> bool:
    """Whether an object is a class of one of the known bases, or of a flowport family."""
    if not isinstance(found, type):
        return False
    return issubclass(found, BASES) or any(base.__module__.startswith("flowport.") for base in found.__mro__)
