"""What a config that was found in a folder, not written here, may build: a stranger's run folder runs no program.

Two things can run a program: a class whose constructor or whose import runs one, and a TorchScript file, which can read
and write files. Restored configs may therefore name the classes of the config groups alone, and programs that this user
has trained with before.
"""

import contextlib
import importlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from flowport.cache import home
from flowport.errors import FlowportError
from flowport.run.trainer_options import OPTIONS

COMPOSED = frozenset(
    {
        "flowport.data.pairing.StoredPairing",
        "flowport.coupling.IndependentCoupling",
        "flowport.field.guidance.Unguided",
        "flowport.finetuning.residual_reward.ResidualReward",
        "flowport.reward.from_code",
        "flowport.run.stage.BoostingStage",
        "flowport.run.stage.FineTuningStage",
        "flowport.run.stage.FlowStage",
    }
)
"""Classes that commands write into configs, beside those of the config groups."""
REFERENCES = 32
"""Largest number of references in a restored config."""
PROGRAM, CODE = "flowport.reward.FromFileReward", "flowport.reward.from_code"
SENDING = frozenset({"flowport.training.logger.MlflowLogger", "flowport.training.logger.WandbLogger"})
"""Loggers that may send what a run shows to a server that the config names."""
TRUST = (
    "if you made this folder or trust whoever did, add trust=true to the command (trust=True in Python), or set "
    "FLOWPORT_TRUST to the names of packages and files"
)


@cache
def known_classes() -> frozenset[str]:
    """The classes that the config groups name, read from the configs of this installation."""
    from flowport.run.commands import configs

    texts = (path.read_text() for path in configs().rglob("*.yaml"))
    found = {name for text in texts for name in re.findall(r"_target_:\s*([\w.]+)", text)}
    own = ("flowport.", "lightning.pytorch.callbacks.")
    return frozenset(name for name in found if name.startswith(own)) | COMPOSED | {"lightning.Trainer"}


def check_config(config: Any, path: str) -> None:
    """Check that a config builds only known classes of plain arguments, and refers only to its own keys.

    Args:
        config: The config as plain containers.
        path: Its file, for messages.

    Raises:
        FlowportError: For any other ``_target_``, for a resolver such as ``${oc.env:HOME}``, and for a TorchScript
            program that this user has not trained with.
    """
    _check(config, path, "")


def _texts(node: Any) -> Iterator[str]:
    """Every string in plain containers."""
    if isinstance(node, str):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _texts(value)


def check_references(config: DictConfig, path: str) -> None:
    """Check that references (``${key}``) are few and name plain values, because chains of them can double in length.

    Args:
        config: The config, unresolved.
        path: Its file, for messages.

    Raises:
        FlowportError: For more than ``REFERENCES``, two in one value, and one that names a node.
    """
    if sum(text.count("${") for text in _texts(OmegaConf.to_container(config, resolve=False))) > REFERENCES:
        raise FlowportError(f"{path} has more than {REFERENCES} references: write the values")
    nodes: list[Any] = [config]
    while nodes:
        node = nodes.pop()
        for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
            if OmegaConf.is_interpolation(node, key):
                raw = str(node._get_node(key)._value())
                if raw.count("$") > 1 or OmegaConf.is_config(OmegaConf.select(node, str(key))):
                    raise FlowportError(
                        f"{path} has more at {key} than a reference to one plain value ({raw:.60}): write the value"
                    )
            elif not OmegaConf.is_missing(node, key) and OmegaConf.is_config(node[key]) and not node[key]._is_none():
                nodes.append(node[key])


def _check(node: Any, path: str, key: str) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(node, path, key)
        if hidden := {"_args_", "_recursive_"} & set(node):
            raise FlowportError(f"{path} has {min(hidden)} at {key or 'its top'}, which no config of flowport has")
        for name, value in node.items():
            _check(value, path, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _check(value, path, f"{key}[{number}]")
    elif isinstance(node, str) and "${" in node and ":" in node[node.index("${") :]:
        raise FlowportError(
            f"{path} asks for a resolver at {key} ({node}): a restored run may only refer to its own keys"
        )


def _check_target(node: dict[str, Any], path: str, key: str) -> None:
    target = node["_target_"]
    if not isinstance(target, str):
        raise FlowportError(f"{path} has no class name at {key}._target_: {target!r}")
    options = {name: value for name, value in node.items() if name != "_target_"}
    if target in known_classes():
        if target == "lightning.Trainer" and (odd := set(options) - set(OPTIONS) - {"_partial_", "_convert_"}):
            raise FlowportError(f"{path} sets trainer.{min(odd)}, which a restored run may not: {TRUST}")
        if target in (PROGRAM, CODE):
            _check_own(node, path, key)
        if target in SENDING and not _mark_of(node).is_file():
            raise FlowportError(
                f"{path} sends the numbers and pictures of a run to a server by {key} ({target}), with which you have "
                f"not trained: {TRUST}"
            )
        return
    if _is_of_trusted(target) or (_is_torch(target) and all(map(_plain, options.values()))):
        return
    raise FlowportError(
        f"{path} wants to build {target} at {key}, which is not a class of the config groups, of torch.nn or of "
        f"torch.optim with plain numbers: {TRUST}"
    )


def _trusted() -> list[str]:
    """The packages, files and folders that the user trusts."""
    return [name.strip() for name in os.environ.get("FLOWPORT_TRUST", "").split(",") if name.strip()]


def _is_of_trusted(target: str) -> bool:
    """Whether a name is of a package that the user trusts."""
    return any(target.startswith(f"{name}.") for name in _trusted())


def _program_of(node: dict[str, Any]) -> str | None:
    """The file of a TorchScript program, or of Python, that a node runs; None where it runs none."""
    if node.get("_target_") == PROGRAM:
        return str(node.get("path"))
    code = re.fullmatch(r"(.+\.py):\w+", str(node.get("code"))) if node.get("_target_") == CODE else None
    return code and code[1]


def _check_own(node: dict[str, Any], path: str, key: str) -> None:
    """Check the program or the code of a reward of the user's."""
    program = _program_of(node)
    if program is not None:
        check_program(program, path)
    elif not _is_of_trusted(str(node.get("code"))):
        raise FlowportError(
            f"{path} wants to run {node.get('code')} at {key}, which is no package that you trust: {TRUST}"
        )


def _is_torch(target: str) -> bool:
    """Whether a name is a class of torch.nn or torch.optim, which are imported already."""
    module, _, name = target.rpartition(".")
    if module not in ("torch.nn", "torch.optim", "torch.optim.lr_scheduler"):
        return False
    with contextlib.suppress(Exception):
        found = getattr(importlib.import_module(module), name)
        bases = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
        return isinstance(found, type) and issubclass(found, bases)
    return False


def _plain(value: Any) -> bool:
    """Whether a value is a number, or a list of numbers."""
    return (
        all(map(_plain, value)) if isinstance(value, list) else value is None or isinstance(value, bool | int | float)
    )


def _mark(program: Path) -> Path:
    return home() / "trusted_programs" / sha256(program.read_bytes()).hexdigest()


def _mark_of(node: dict[str, Any]) -> Path:
    """Where it is remembered that this user has trained with a logger of these options."""
    text = json.dumps(node, sort_keys=True, default=str)
    return home() / "trusted_loggers" / sha256(text.encode()).hexdigest()


def check_program(program: str, path: str) -> None:
    """Check that this user has trained with a program, of TorchScript or Python, which can read and write files.

    Args:
        program: The file; one that does not exist cannot run.
        path: The config that names it, for messages.

    Raises:
        FlowportError: Where he has not.
    """
    if any(os.sep in name and Path(program).resolve().is_relative_to(Path(name).resolve()) for name in _trusted()):
        return
    if Path(program).is_file() and not _mark(Path(program)).is_file():
        raise FlowportError(
            f"{path} runs the program {program}, which can read and write files and which you have not trained with: "
            f"{TRUST}"
        )


def remember_programs(node: Any) -> None:
    """Remember the programs and the loggers that send of a config that the user composed.

    Runs of that config can then be restored.

    Args:
        node: The config as plain containers.
    """
    if isinstance(node, dict):
        program = _program_of(node)
        if program is not None and Path(program).is_file():
            mark = _mark(Path(program))
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        if node.get("_target_") in SENDING:
            mark = _mark_of(node)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        for value in node.values():
            remember_programs(value)
    elif isinstance(node, list):
        for value in node:
            remember_programs(value)
