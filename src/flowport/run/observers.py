"""The loggers and the user's own callbacks of a run, from ``logger=[…]`` and ``callback=[…]`` of its config."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError
from flowport.modality.picture import read_picture
from flowport.run.build import make
from flowport.run.run_folder import RunFolder
from flowport.training.logger import RunLogger, TensorboardLogger
from flowport.training.logger.base import of_the_end


def loggers_of(config: DictConfig, folder: RunFolder, done: int | None) -> list[Logger]:
    """The loggers of a run; of a config without the key ``logger`` TensorBoard's.

    A logger that is a factory (``_partial_: true``) is called with the run's folder and ``done``.

    Args:
        config: The config of a run.
        folder: The run's.
        done: Number of steps of the checkpoint that the run resumes from; None for a new run.

    Raises:
        FlowportError: For a package that is not installed, and for what is no logger.
    """
    if config.get("logger") is None:
        return [TensorboardLogger(folder.path, done)]
    found = []
    for name, node in config.logger.items():
        made = _made(f"logger={name}", node)
        logger = _called(f"logger={name}", made, folder, done) if isinstance(made, partial) else made
        if not isinstance(logger, Logger):
            raise FlowportError(f"logger.{name}._target_={node.get('_target_')} is no logger of Lightning")
        found.append(logger)
    return found


def callbacks_of(config: DictConfig) -> list[Callback]:
    """The callbacks that a config adds to those of flowport; their state is not part of a checkpoint.

    Args:
        config: The config of a run.

    Raises:
        FlowportError: For what is no callback of Lightning.
    """
    found = []
    for name, node in (config.get("callback") or {}).items():
        made = _made(f"callback={name}", node)
        if not isinstance(made, Callback):
            raise FlowportError(
                f"callback.{name}._target_={node.get('_target_')} is no callback: name a class derived from "
                "lightning.Callback"
            )
        found.append(made)
    return found


def _made(word: str, node: Any) -> Any:
    if not isinstance(node, DictConfig) or not node.get("_target_"):
        group = word.partition("=")[0]
        raise FlowportError(f"{word} has no _target_: write {group}=[<name>] or +{group}.mine._target_=<your class>")
    return make(OmegaConf.create(OmegaConf.to_container(node, resolve=True)))


def _called(word: str, factory: Any, folder: RunFolder, done: int | None) -> Any:
    try:
        return factory(folder.path, done)
    except ModuleNotFoundError as error:
        package = str(error.name or word.partition("=")[2])
        raise FlowportError(f"{word} needs the package {package}: install it, or leave it out of logger=[…]") from None


class Observers:
    """All loggers of a run at its beginning and its end; loggers of other libraries get what they take.

    Args:
        loggers: The loggers.
    """

    def __init__(self, loggers: list[Logger]) -> None:
        self.loggers = loggers

    def describe(self, config: str, choices: dict[str, Any], metrics: list[str]) -> None:
        """Record what a new run begins with.

        Args:
            config: The composed config, YAML.
            choices: Plain values by name.
            metrics: Names of the numbers of the end.
        """
        for log in self.loggers:
            if isinstance(log, RunLogger):
                log.describe(config, choices, metrics)
            else:
                log.log_hyperparams(choices)

    def conclude(self, numbers: dict[str, Any], step: int, pictures: Mapping[str, Path] | None = None) -> None:
        """Record the numbers and the pictures of the end.

        Args:
            numbers: Values by name.
            step: Number of optimiser steps.
            pictures: Files of pictures by name.
        """
        shown = {name: read_picture(path) for name, path in (pictures or {}).items()}
        for log in self.loggers:
            if isinstance(log, RunLogger):
                for name, pixels in shown.items():
                    log.picture(name, pixels, step)
                log.conclude(numbers, step)
            else:
                log.log_metrics(of_the_end(numbers), step)
                log.save()

    def close(self) -> None:
        """Finish the records."""
        for log in self.loggers:
            if isinstance(log, RunLogger):
                log.close()
            else:
                log.finalize("success")
