"""Build a run from its config, train it, restore it. The only module of flowport's mathematics that knows Hydra."""

import json
import logging
import os
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from flowport.callback import EMA, AtomicCheckpointIO, Guard, Progress, Watch
from flowport.capabilities import capabilities
from flowport.classifier import trained_classifier
from flowport.data import PairDataModule
from flowport.distribution.base import Distribution, Stored
from flowport.errors import Refusal
from flowport.evaluation import Evaluation, gallery
from flowport.field import Learned
from flowport.metric.base import Metric
from flowport.module import FlowModule
from flowport.objective import Objective
from flowport.randomness import Randomness
from flowport.restore import read_config, read_weights

logger = logging.getLogger(__name__)
CLASSIFIERS = Path("data/classifiers")


@dataclass
class Run:
    """A composed experiment: everything that training, translation and evaluation need."""

    config: DictConfig
    module: FlowModule
    data: PairDataModule
    evaluation: Evaluation
    facts: dict[str, Any]


make = instantiate
"""Build one node of a config."""


def build(config: DictConfig) -> Run:
    """Instantiate every part once and join them. Raises Refusal for parts that do not fit together."""
    torch.set_float32_matmul_precision("high")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    randomness = Randomness(config.seed)
    lightning.seed_everything(randomness.number("initial weights") % 2**32, verbose=False)
    source: Distribution = instantiate(config.source)
    target: Distribution = instantiate(config.target)
    joint = instantiate(config.joint)(source=source, target=target)
    coupling, path = instantiate(config.coupling), instantiate(config.path)
    prediction, conditioning = instantiate(config.prediction), instantiate(config.conditioning)
    able = capabilities(source, joint, coupling, path, conditioning, prediction)
    network = instantiate(config.network)(
        event_shape=source.event_shape, condition=conditioning.shape(source, target), heads=prediction.heads
    )
    field = Learned(network, path, prediction, conditioning, able)
    objective: Objective = instantiate(config.objective)
    facts: dict[str, Any] = {}
    evaluation = build_evaluation(config, target, facts)
    evaluation.translator(field)  # refuses a sampler that this field cannot serve, before any training
    module = FlowModule(source, target, field, objective, instantiate(config.optimizer), instantiate(config.scheduler),
                        randomness, config.ema_decay)  # fmt: skip
    data = instantiate(config.data)(joint=joint, coupling=coupling, randomness=randomness)
    return Run(config, module, data, evaluation, facts)


def build_evaluation(config: DictConfig, target: Distribution, facts: dict[str, Any]) -> Evaluation:
    """Solver, grid, volatility and metrics; a metric that is a partial gets the classifier of the target's dataset."""
    metrics: dict[str, Metric] = {}
    for name, node in instantiate(config.metric).items():
        if isinstance(node, partial):
            classifier, told, dataset = classifier_of(target)
            facts.update({f"classifier/{k}": v for k, v in told.items()})
            metrics[str(name)] = node(classifier=classifier, name=dataset)
        else:
            metrics[str(name)] = node
    solver, grid, volatility = instantiate(config.solver), instantiate(config.grid), instantiate(config.volatility)
    return Evaluation(solver, grid, volatility, metrics, config.evaluation_items)


def classifier_of(target: Distribution) -> tuple[torch.nn.Module, dict[str, Any], str]:
    """The classifier of a labelled dataset, trained once and kept."""
    if not isinstance(target, Stored) or target.classes == 0:
        raise Refusal(
            f"this metric measures in the features of a classifier of the target, but {type(target).__name__} is not a "
            "labelled dataset: choose other metrics, for instance metric=[wasserstein]"
        )
    network, told = trained_classifier(target.split("train"), target.split("test"), CLASSIFIERS)
    return network, told, target.name


def build_trainer(config: DictConfig, folder: Path, evaluation: Evaluation) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks, logger and crash-proof checkpoints."""
    steps, every = config.trainer.max_steps, config.checkpoint_every
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode.*")  # the moving average, on purpose
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")  # torch's note to Lightning
    callbacks: list[lightning.Callback] = [
        EMA(),
        Guard(),
        *([Progress()] if config.trainer.get("enable_progress_bar", True) else []),
        Watch(evaluation, folder),
        ModelCheckpoint(folder / "checkpoints", "last", every_n_train_steps=every, enable_version_counter=False),
    ]
    return instantiate(config.trainer)(
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        # One epoch is the whole training, so that the progress bar knows its end.
        limit_train_batches=steps * config.trainer.get("accumulate_grad_batches", 1),
        max_epochs=1,
    )


def train(config: DictConfig, folder: Path, resume: Path | None = None) -> dict[str, float]:
    """Train (or resume) a run in its folder, evaluate it, write metrics.json and gallery.png. Returns the metrics."""
    run = build(config)
    if resume is not None:
        check_fits(run.module, read_weights(folder)[1], resume)
    trainer = build_trainer(config, folder, run.evaluation)
    began = time.perf_counter()
    trainer.fit(run.module, run.data, ckpt_path=resume)
    seconds = time.perf_counter() - began
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    numbers: dict[str, Any] = {"train/steps": trainer.global_step, "train/seconds": round(seconds, 2), **run.facts}
    numbers.update({f"coupling/{k}": v for k, v in run.data.train.facts.items()})
    numbers.update(evaluate(run, folder, trainer.strategy.root_device))
    write_json(folder / "metrics.json", numbers)
    return numbers


def evaluate(run: Run, folder: Path, device: torch.device) -> dict[str, float]:
    """test/<metric> of the averaged field on the held-out test split, and the gallery, into ``folder``."""
    module = run.module.to(device)
    source, target = module.source.to(device), module.target.to(device)
    began = time.perf_counter()
    outcome = run.evaluation.outcome(module.ema, source, target, module.randomness, "test")
    numbers = {f"test/{k}": v for k, v in run.evaluation.measure(outcome).items()}
    numbers["test/seconds"] = round(time.perf_counter() - began, 2)
    gallery(outcome, target.modality, folder / "gallery.png")
    return numbers


def restore(folder: Path, changes: DictConfig | None = None) -> tuple[Run, Path]:
    """A trained run from its folder, with its last weights; ``changes`` override its config (for instance the
    solver). Runs no code of the folder's. Raises Refusal for what is missing, damaged or of another shape."""
    config = read_config(folder)
    if changes is not None:
        for key, value in changes.items():
            config[key] = value
    path, checkpoint = read_weights(folder)
    run = build(config)
    check_fits(run.module, checkpoint, path)
    run.module.load_state_dict(checkpoint["state_dict"])
    return run, path


def check_fits(module: FlowModule, checkpoint: dict[str, Any], path: Path) -> None:
    """Raise Refusal, naming the first difference, where weights are of another shape than the module."""
    state, own = checkpoint.get("state_dict", {}), module.state_dict()
    for name, value in own.items():
        if name not in state:
            raise Refusal(f"{path} does not fit this run: it has no weight called {name}")
        if state[name].shape != value.shape:
            raise Refusal(
                f"{path} does not fit this run: {name} is {tuple(state[name].shape)} there and "
                f"{tuple(value.shape)} here"
            )


def write_json(path: Path, numbers: dict[str, Any]) -> None:
    """Write flat numbers so that a reader never sees half a file."""
    partial_path = path.with_suffix(f".partial-{os.getpid()}")
    partial_path.write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n")
    os.replace(partial_path, path)
