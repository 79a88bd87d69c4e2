"""Build a run from its config, train it, restore it. The only module of flowport's mathematics that knows Hydra."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from flowport.cache import home
from flowport.data.datamodule import PairDataModule
from flowport.data.normalisation import measured
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.evaluation.classifier_training import classifier_of
from flowport.evaluation.evaluator import Evaluator, gallery
from flowport.field import Field
from flowport.field.guidance import Guidance, Unguided
from flowport.metric.base import Metric
from flowport.objective import Objective
from flowport.randomness import Randomness
from flowport.reward import DecodedReward, Reward
from flowport.run.config_checks import check_kind, check_values
from flowport.run.run_folder import check_fits, read_config, read_weights, write_stamp
from flowport.sampling.translator import Translator
from flowport.training.averaging import AveragedModule
from flowport.training.callback import AtomicCheckpointIO, ProgressBar, ResumeFinished, SampleLogger, TrainingClock
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule, tilted
from flowport.training.flow_module import FlowModule

logger = logging.getLogger(__name__)
CLASSIFIERS = home() / "classifiers"
OWN: dict[str, tuple[Any, float | None]] = {
    "seed": (int, 0),
    "threads": (int | None, 1),
    "ema_decay": (float, 0),
    "evaluation_items": (int, 1),
    "checkpoint_every": (int, 1),
    "trainer.max_steps": (int, 1),
}
"""The keys of a run that no class declares: type and least value."""
PRECISIONS = ("32-true", "32", "16-mixed", "bf16-mixed")
QUIET = (
    ".*module\\(s\\) in eval mode.*",  # the moving average, on purpose
    ".*isinstance\\(treespec, LeafSpec\\).*",  # torch's note to Lightning
    ".*resuming from a checkpoint that ended before the epoch.*",  # batches are a function of the step
    ".*smaller than the logging interval.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)
"""Warnings of Lightning's that mislead here."""


@dataclass
class Run:
    """A composed experiment: everything that training, translation and evaluation need."""

    config: DictConfig
    module: AveragedModule
    data: PairDataModule
    evaluation: Evaluator
    facts: dict[str, Any]


make = instantiate
"""Build one node of a config."""

PARTS = (
    "pairing",
    "coupling",
    "path",
    "prediction",
    "conditioning",
    "network",
    "objective",
    "optimizer",
    "scheduler",
    "data",
)
"""The nodes of a config that ``compose`` joins."""


def build(config: DictConfig, trained: Field | None = None) -> Run:
    """Instantiate every part once and join them. Raises FlowportError for parts that do not fit together.

    trained: the flow that the last entry of ``config.tuning`` tunes; without it all entries are built, one upon the
    other, for a checkpoint to fill.
    """
    check(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    flow, data, told = flow_of(config)
    source, target = flow.source, flow.target
    entries = list(config.get("tuning") or [])
    module = tuned(flow, entries, config, trained) if entries else flow
    facts: dict[str, Any] = dict(told)
    evaluation = build_evaluation(config, module.field, source, target, facts)
    return Run(config, module, data, evaluation, facts)


def flow_of(config: DictConfig) -> tuple[FlowModule, PairDataModule, dict[str, Any]]:
    """The flow of a config, its data, and what its space tells."""
    source, target, told = make(config.space).enter(*sides(config))
    parts = {part: make(config[part]) for part in PARTS}
    if not isinstance(parts["objective"], Objective):
        raise FlowportError(
            "this objective tunes a trained flow: use flowport finetune run=<folder>, or train one by "
            "objective=flow_matching"
        )
    return *compose(source, target, **parts, ema_decay=config.ema_decay, seed=config.seed), told


def tuned(flow: AveragedModule, entries: list[DictConfig], config: DictConfig, trained: Field | None) -> FineTuneModule:
    """The last entry of ``config.tuning`` upon a trained field, or upon the changes of all entries before it."""
    source, target, last = flow.source, flow.target, entries[-1]
    base = flow.ema if trained is None else trained
    for entry in entries[:-1] if trained is None else []:
        base = tilted(base, make(entry.adapter), source, target)
    return FineTuneModule(
        source,
        target,
        base,
        make(last.adapter),
        make(last.method),
        build_reward(last.reward, target),
        last.strength,
        make(config.optimizer),
        make(config.scheduler),
        Randomness(config.seed).under(f"tuning {len(entries)}"),
        config.ema_decay,
    )


def build_reward(node: DictConfig, target: Distribution) -> Reward:
    """The reward of a config, for points as a flow to this target makes them."""
    reward: Any = make(node)
    if isinstance(reward, partial):
        reward = reward(classifier=classifier_of(target.observed(), CLASSIFIERS)[0])
    if target.modality.surface() is not target.modality and not reward.learnt:
        return DecodedReward(reward, target.modality)
    return reward


def guidance_of(config: DictConfig, source: Distribution, target: Distribution) -> Guidance:
    """What the config's field becomes before it is sampled; runs of old know no guidance."""
    node = config.get("guidance")
    if node is None:
        return Unguided()
    if "reward" not in node:
        return make(node)
    if config.get("reward") is None:
        raise FlowportError("guidance=reward needs a reward: write reward=<name>, for instance reward=legibility")
    reward = build_reward(config.reward, target)
    reward.check(source, target)
    return partial(make(node), reward=reward)


def sides(config: DictConfig) -> tuple[Distribution, Distribution]:
    """Source and target; what their modalities leave null is measured and written into the config."""
    made: dict[str, Distribution] = {side: make(config[side]) for side in ("source", "target")}
    for side, values in measured(**made).items():
        config[side].modality.update(values)
        made[side] = made[side].encoded_by(make(config[side].modality))
    return made["source"], made["target"]


def check(config: DictConfig) -> None:
    """Raise FlowportError for an option that does not exist, or a value of the wrong kind or size."""
    for key, (hint, least) in OWN.items():
        check_kind(key, OmegaConf.select(config, key), hint, least)
    if config.trainer.devices != 1:
        raise FlowportError(
            f"trainer.devices={config.trainer.devices} is not served yet: couplings and metrics are those of one "
            "process; use trainer.devices=1 and a sweep to fill several devices"
        )
    if config.ema_decay >= 1:
        raise FlowportError(f"ema_decay={config.ema_decay} would never let the average move: it must be below 1")
    check_values(config)


def build_evaluation(
    config: DictConfig, field: Field, source: Distribution, target: Distribution, facts: dict[str, Any]
) -> Evaluator:
    """Solver, grid, volatility and metrics; a metric that is a partial gets the classifier of the target's dataset.

    Raises FlowportError for a sampler that the field cannot serve, before a classifier is trained, and for a metric
    that cannot measure this pair of distributions.
    """
    solver, grid, volatility = make(config.solver), make(config.grid), make(config.volatility)
    guidance = guidance_of(config, source, target)
    Translator(guidance(field), solver, grid, volatility)
    source, target = source.observed(), target.observed()
    metrics: dict[str, Metric] = {}
    nodes = instantiate(config.metric)
    for node in nodes.values():
        if not isinstance(node, partial):  # told before a classifier is trained for its neighbours
            node.check(source, target)
    for name, node in nodes.items():
        if isinstance(node, partial):
            classifier, told, dataset = classifier_of(target, CLASSIFIERS)
            facts.update({f"classifier/{k}": v for k, v in told.items()})
            metrics[str(name)] = node(classifier=classifier, name=dataset)
        else:
            metrics[str(name)] = node
        metrics[str(name)].check(source, target)
        metrics[str(name)].check_condition(field.conditioning.shape(source, target))
    return Evaluator(solver, grid, volatility, metrics, config.evaluation_items, guidance)


def build_trainer(config: DictConfig, folder: Path, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks, logger and crash-proof checkpoints.

    Raises FlowportError for options that Lightning refuses, for instance an accelerator that this machine does not
    have.
    """
    options = config.trainer
    steps, batches = options.max_steps, options.get("accumulate_grad_batches", 1)
    if str(options.get("precision", "32-true")) not in PRECISIONS:
        raise FlowportError(
            f"trainer.precision={options.precision} is not for a moving average in float32: choose one of "
            f"{', '.join(PRECISIONS)}"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for note in QUIET:
        warnings.filterwarnings("ignore", note)
    between = options.get("val_check_interval", 1.0)
    if isinstance(between, int):
        between = min(between, steps) * batches  # Lightning counts batches
    bar = [ProgressBar()] if options.get("enable_progress_bar", True) else []
    try:
        return instantiate(options)(
            callbacks=[*callbacks, *bar],
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            # One epoch is the whole training, so that the progress bar knows its end.
            limit_train_batches=steps * batches,
            val_check_interval=between,
            max_epochs=1,
        )
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise FlowportError(f"this trainer cannot be built: {error}") from None


def train(
    config: DictConfig,
    folder: Path,
    resume: Path | None = None,
    trained: Field | None = None,
    before: Callable[[Run], dict[str, Any]] | None = None,
    after: Callable[[Run, Path], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train (or resume) a run in its folder, evaluate it, write metrics.json and gallery.png. Returns the metrics.

    trained: as for ``build``; before, after: further numbers of the run, before and after its training.
    """
    run, clock, checkpoints = build(config, trained), TrainingClock(), folder / "checkpoints"
    if resume is not None:
        check_fits(run.module, read_weights(folder)[1], resume, resume=True)
    keep_config(config, folder)
    told = folder / "before.json"  # which a resumed run tells again
    if resume is None:
        told.unlink(missing_ok=True)
    if before and resume is None and (found := before(run)):
        write_json(told, found)
    save = ModelCheckpoint(
        checkpoints, "last", every_n_train_steps=config.checkpoint_every, enable_version_counter=False
    )
    trainer = build_trainer(config, folder, [ResumeFinished(), SampleLogger(run.evaluation, folder), clock, save])
    trainer.fit(run.module, run.data, ckpt_path=resume)
    trainer.save_checkpoint(checkpoints / "last.ckpt")
    numbers: dict[str, Any] = {
        "train/steps": trainer.global_step,
        "train/seconds": round(clock.seconds, 2),
        "train/step_ms": round(clock.step_ms, 3),
        **run.facts,
    }
    numbers |= json.loads(told.read_text()) if told.is_file() else {}
    last = trainer.global_step * trainer.accumulate_grad_batches - 1
    numbers.update({f"coupling/{k}": v for k, v in run.data.train.facts_of(last).items()})
    numbers.update(evaluate(run, folder, trainer.strategy.root_device))
    numbers.update(after(run, folder) if after else {})
    write_json(folder / "metrics.json", numbers)
    return numbers


def keep_config(config: DictConfig, folder: Path) -> None:
    """What the run is from now on, with what was measured: written once it is known to build and to fit."""
    path = folder / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)
    write_stamp(folder)


def evaluate(run: Run, folder: Path, device: torch.device) -> dict[str, float]:
    """test/<metric> of the averaged field on the held-out test split, and the gallery, into ``folder``."""
    module, pair = run.module.to(device), run.data.placed(device)
    source, target = pair.source, pair.target
    began = time.perf_counter()
    outcome = run.evaluation.outcome(module.ema, source, target, module.randomness, "test")
    numbers = {f"test/{k}": v for k, v in run.evaluation.measure(outcome).items()}
    numbers["test/nfe"] = outcome.nfe
    numbers["test/seconds"] = round(time.perf_counter() - began, 2)
    gallery(outcome, target.modality, folder / "gallery.png")
    return numbers


def restore(folder: Path, changes: DictConfig | None = None) -> tuple[Run, Path]:
    """A trained run from its folder, with its last weights; ``changes`` override its config (for instance the
    solver). Runs no code of the folder's. Raises FlowportError for what is missing, damaged or of another shape."""
    config = read_config(folder)
    if changes is not None:
        for key, value in changes.items():
            config[key] = value
    path, checkpoint = read_weights(folder)
    run = build(config)
    check_fits(run.module, checkpoint, path)
    run.module.load_state_dict(checkpoint["state_dict"])
    return run, path


def write_json(path: Path, numbers: dict[str, Any]) -> None:
    """Write flat numbers so that a reader never sees half a file."""
    partial_path = path.with_suffix(f".partial-{os.getpid()}")
    partial_path.write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n")
    os.replace(partial_path, path)
