"""What a run does: train a flow, or the classifier that judges flows."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport import experiment
from flowport.errors import Refusal
from flowport.restore import read_config, read_weights


class Stage(ABC):
    @abstractmethod
    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        """Do it in the run's folder, leave metrics.json there and return the numbers.

        resume: a checkpoint to go on from.
        """


class Flow(Stage):
    """Train a flow, then evaluate it on the test split."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        return experiment.train(config, folder, resume)


class Classifier(Stage):
    """Train (or find) the classifier of the target dataset and say how good it is on the test split."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        _, told, dataset = experiment.classifier_of(experiment.make(config.target))
        numbers = {f"test/accuracy_{dataset}": told["accuracy"], "classifier/hash": told["hash"]}
        experiment.write_json(folder / "metrics.json", numbers)
        return numbers


def resume(folder: Path, words: list[str]) -> dict[str, float]:
    """Continue a run in place from its own config and last checkpoint; ``words`` are key=value changes of values."""
    config = read_config(folder)
    changes = OmegaConf.from_dotlist(words)
    for word in words:
        if OmegaConf.select(config, word.split("=")[0]) is None:
            raise Refusal(f"{word} names no key of the run in {folder}: a resumed run keeps its own config")
    config = OmegaConf.merge(config, changes)  # type: ignore[assignment]
    path, _ = read_weights(folder)
    stage: Stage = experiment.make(config.stage)
    return stage.run(config, folder, path)
