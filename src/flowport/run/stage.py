"""What a run does: train a flow, fine-tune one, train the classifier that metrics use, or simulate known processes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowport.errors import Checked, Count, FlowportError, SampleSize
from flowport.evaluation import process_plot
from flowport.randomness import Randomness
from flowport.run.boost import boost
from flowport.run.build import Parts, checked_config, make
from flowport.run.finetune import tune
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from flowport.run.trainer_options import processes_of
from flowport.sampling.process import ClosedFormProcess


class Stage(Checked, ABC):
    """What a run does in its folder.

    To add a member: subclass it here and add ``configs/stage/<name>.yaml`` with its ``_target_``.
    """

    @abstractmethod
    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        """Do it, write metrics.json and return the numbers.

        Args:
            config: The composed config.
            folder: The run's.
            resume: Go on from the folder's last checkpoint.
        """


class FlowStage(Stage):
    """Train a flow, then evaluate it on the test split."""

    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        return train(config, folder, resume)


class ClassifierStage(Stage):
    """Train (or load) the classifier of the target dataset and report its accuracy on the test split."""

    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        parts = Parts()
        _, facts, dataset = parts.classifier(parts.sides(config)[1])
        numbers = {f"test/accuracy_{dataset}": facts["accuracy"], "classifier/hash": facts["hash"]}
        folder.write_metrics(numbers)
        return numbers


class ProcessesStage(Stage):
    """Integrate processes of known law and draw them beside it (gallery.png); nothing is trained.

    Args:
        processes: By name.
        paths: Of each.
        steps: Of each path.
    """

    def __init__(
        self, processes: Mapping[str, ClosedFormProcess], paths: SampleSize = 4000, steps: Count = 200
    ) -> None:
        self.processes, self.paths, self.steps = processes, paths, steps

    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        numbers = process_plot.experiment(
            self.processes, self.paths, self.steps, Randomness(config.seed), folder.gallery
        )
        folder.write_metrics(numbers)
        return numbers


class FineTuningStage(Stage):
    """Tune a trained flow towards a reward by the last entry of ``config.tuning``, then evaluate and certify it."""

    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        return tune(config, folder, resume)


class BoostingStage(Stage):
    """Tune a tuned flow by the residual reward of its results (``flowport.run.boost``)."""

    def run(self, config: DictConfig, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        return boost(config, folder, resume)


def resume(folder: RunFolder, overrides: list[str]) -> dict[str, Any]:
    """Continue a run in place from its own config and last checkpoint.

    Args:
        folder: The run's.
        overrides: key=value changes of values, in Hydra's grammar.

    Raises:
        FlowportError: For anything but a change of one value, and for a folder that holds no run.
    """
    config = checked_config(folder)
    folder.check_links()
    batches, processes = config.trainer.get("accumulate_grad_batches", 1), processes_of(config.trainer)
    for word in overrides:
        _change(config, word, folder)
    if config.trainer.get("accumulate_grad_batches", 1) != batches:
        raise FlowportError(
            f"trainer.accumulate_grad_batches={config.trainer.accumulate_grad_batches} is another number of batches a "
            f"step than the {batches} of this run, by which it counts its batches: start a new run for it"
        )
    if processes_of(config.trainer) != processes:
        raise FlowportError(
            f"trainer.devices={config.trainer.devices} is another number of processes than the {processes} of this "
            "run, which share its stream of data: start a new run for it"
        )
    done = folder.read_checkpoint().get("global_step", 0)
    if isinstance(done, int) and isinstance(config.trainer.max_steps, int) and config.trainer.max_steps < done:
        raise FlowportError(
            f"trainer.max_steps={config.trainer.max_steps} is less than the {done} steps that the run in {folder} has "
            f"done: give at least {done}, or evaluate it as it is"
        )
    stage = make(config.stage)
    if not isinstance(stage, Stage):
        raise FlowportError(f"{folder.config}: stage._target_={config.stage._target_} is no stage of a run")
    return stage.run(config, folder, resume=True)


def _change(config: DictConfig, word: str, folder: RunFolder) -> None:
    try:
        override = OverridesParser.create().parse_override(word)
        value = override.value()
    except HydraException:
        raise FlowportError(f"{word} is not key=value: write for instance trainer.max_steps=4000") from None
    key = override.key_or_group
    parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
    last = key.rpartition(".")[2]
    if override.is_sweep_override():
        raise FlowportError(f"{word} is a sweep: a resumed run has one value, for instance trainer.max_steps=4000")
    known = isinstance(parent, DictConfig) and last in parent
    if override.type is not OverrideType.CHANGE or not known or last.startswith("_"):
        raise FlowportError(f"{word} names no key of the run in {folder}: a resumed run keeps its own config")
    if isinstance(parent[last], DictConfig):
        raise FlowportError(
            f"{word} would replace a whole part of the run in {folder}: only values such as trainer.max_steps=4000 "
            "can change when a run is resumed"
        )
    try:
        parent[last] = value
    except OmegaConfBaseException:
        raise FlowportError(f"{word} is not a value: write for instance trainer.max_steps=4000") from None
