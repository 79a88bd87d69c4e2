"""What a run does: train a flow, fine-tune one, train the classifier that metrics use, or simulate processes of known
law."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowport.errors import FlowportError
from flowport.evaluation import process_plot
from flowport.evaluation.classifier_training import classifier_of
from flowport.randomness import Randomness
from flowport.run import experiment
from flowport.run.boost import boost
from flowport.run.finetune import tune
from flowport.run.run_folder import read_config, read_weights
from flowport.sampling.process import KnownProcess


class Stage(ABC):
    @abstractmethod
    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        """Do it in the run's folder, leave metrics.json there and return the numbers.

        resume: a checkpoint to go on from.
        """


class FlowStage(Stage):
    """Train a flow, then evaluate it on the test split."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        return experiment.train(config, folder, resume)


class ClassifierStage(Stage):
    """Train (or find) the classifier of the target dataset and say how good it is on the test split."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        _, told, dataset = classifier_of(experiment.sides(config)[1], experiment.CLASSIFIERS)
        numbers = {f"test/accuracy_{dataset}": told["accuracy"], "classifier/hash": told["hash"]}
        experiment.write_json(folder / "metrics.json", numbers)
        return numbers


class ProcessesStage(Stage):
    """Nothing is learnt: processes of known law, integrated and drawn beside it (gallery.png)."""

    def __init__(self, processes: Mapping[str, KnownProcess], paths: int = 4000, steps: int = 200) -> None:
        self.processes, self.paths, self.steps = processes, paths, steps

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        numbers = process_plot.experiment(
            self.processes, self.paths, self.steps, Randomness(config.seed), folder / "gallery.png"
        )
        experiment.write_json(folder / "metrics.json", numbers)
        return numbers


class FineTuningStage(Stage):
    """Tune a trained flow towards a reward by the last entry of ``config.tuning``, then evaluate and certify it."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        return tune(config, folder, resume)


class BoostingStage(Stage):
    """Tune a tuned flow by what its results still lack of the tilt of all results (``flowport.run.boost``)."""

    def run(self, config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, Any]:
        return boost(config, folder, resume)


def resume(folder: Path, words: list[str]) -> dict[str, Any]:
    """Continue a run in place from its own config and last checkpoint; ``words`` are key=value changes of values.

    Raises FlowportError for words that are no change of one value, and for a folder that holds no run.
    """
    config = read_config(folder)
    for word in words:
        _change(config, word, folder)
    stage: Stage = experiment.make(config.stage)
    return stage.run(config, folder, read_weights(folder)[0])


def _change(config: DictConfig, word: str, folder: Path) -> None:
    key, equal, value = word.partition("=")
    parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
    last = key.rpartition(".")[2]
    if not equal or not isinstance(parent, DictConfig) or last not in parent:
        raise FlowportError(f"{word} names no key of the run in {folder}: a resumed run keeps its own config")
    if isinstance(parent[last], DictConfig):
        raise FlowportError(
            f"{word} would replace a whole part of the run in {folder}: only values such as trainer.max_steps=4000 "
            "can change when a run is resumed"
        )
    try:
        parent[last] = yaml.safe_load(value)
    except (yaml.YAMLError, OmegaConfBaseException):
        raise FlowportError(f"{word} is not a value: write for instance trainer.max_steps=4000") from None
