"""Where a command works: where its run was trained, unless ``device=`` says otherwise."""

import logging
import re
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.errors import FlowportError

logger = logging.getLogger(__name__)
WORDS = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
CUDA = re.compile(r"gpu|cuda(:\d+)?")
"""Accelerators of Lightning's that are CUDA, and ``cuda:<number>``, which is ours."""
LACKS = (
    "%s is tried without a promise: Apple's GPUs have no float64, in which some samplers and metrics compute, and "
    "PyTorch lacks some kernels there (PYTORCH_ENABLE_MPS_FALLBACK=1 computes these on the CPU); device=cpu and "
    "trainer=cpu lack nothing"
)
"""What is said of MPS."""


def asked(overrides: DictConfig) -> str | None:
    """The accelerator that ``device=`` asks for: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; None without one.

    Args:
        overrides: The composed config of a command.

    Raises:
        FlowportError: For a word that is no device, and for a device that this machine does not have.
    """
    word = overrides.get("device")
    if word is None:
        return None
    if not (isinstance(word, str) and WORDS.fullmatch(word)):
        raise FlowportError(f"device={word} is unknown: use device=auto, cpu, cuda, cuda:1 or mps")
    if word == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not present(word):
        raise FlowportError(f"device={word} is not on this machine, which has {_at_hand()}")
    return word


def present(accelerator: str) -> bool:
    """Whether this machine has an accelerator.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; any other is not there.
    """
    if CUDA.fullmatch(accelerator):
        return torch.cuda.is_available() and int(accelerator.partition(":")[2] or 0) < torch.cuda.device_count()
    return accelerator in ("auto", "cpu") or (accelerator == "mps" and torch.backends.mps.is_available())


def accelerator_of(trainer: DictConfig, overrides: DictConfig, say: bool = True) -> str:
    """The accelerator on which a command goes on with a run, a value of ``trainer.accelerator``.

    It is the one of ``device=``, else the run's own, else, where this machine lacks that one, the CPU, which is said.

    Args:
        trainer: The node ``trainer`` of the run's config.
        overrides: The composed config of the command.
        say: Whether it is said.

    Raises:
        FlowportError: For a ``device=`` that is unknown or not there.
    """
    said, own = asked(overrides), str(trainer.get("accelerator") or "auto")
    if said is not None or present(own):
        return said or own
    if say:
        logger.warning(
            "the run was trained with trainer.accelerator=%s, which this machine does not have: the CPU is used", own
        )
    return "cpu"


def device_of(trainer: DictConfig, overrides: DictConfig) -> torch.device:
    """The device on which a trained run is sampled and measured; a GPU is named with its precision.

    Args:
        trainer: The node ``trainer`` of the run's config.
        overrides: The composed config of the command.

    Raises:
        FlowportError: For a ``device=`` that is unknown or not there.
    """
    accelerator = accelerator_of(trainer, overrides)
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda" if accelerator == "gpu" else accelerator)
    if device.type == "mps":
        logger.warning(LACKS, "device=mps")
    if device.type == "cuda":
        logger.info("on %s in full float32, without TF32", torch.cuda.get_device_name(device))
    return device


def require_present(trainer: DictConfig) -> None:
    """Check that this machine has the accelerator of a trainer.

    Args:
        trainer: The node ``trainer`` of a config.

    Raises:
        FlowportError: For an accelerator that is not there.
    """
    word = str(trainer.get("accelerator") or "auto")
    if not present(word):
        raise FlowportError(
            f"trainer.accelerator={word} is not on this machine, which has {_at_hand()}: use trainer=cpu"
        )


def places(trainer: DictConfig) -> dict[str, Any]:
    """Lightning's words for the node's accelerator: ``cuda:1`` is the second device of the accelerator ``cuda``.

    Args:
        trainer: The node ``trainer`` of a config.

    Raises:
        FlowportError: For an accelerator that this machine does not have.
    """
    require_present(trainer)
    word = str(trainer.get("accelerator") or "auto")
    if word == "mps":
        logger.warning(LACKS, "trainer.accelerator=mps")
    name, _, number = word.partition(":")
    return {"accelerator": "cuda" if name == "gpu" else name, "devices": [int(number)]} if number else {}


def _at_hand() -> str:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(f"cuda:{k}" for k in range(gpus)), *(["mps"] if torch.backends.mps.is_available() else [])]
    return ", ".join(names)
