"""Train a run in its folder, or resume it, then evaluate it."""

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from flowport.data.remembered import remember
from flowport.errors import FlowportError
from flowport.run.build import Parts, Run, build
from flowport.run.choices import choices
from flowport.run.device import places, require_present
from flowport.run.evaluate import check_measures, measure
from flowport.run.observers import Observers, callbacks_of, loggers_of
from flowport.run.rank_launch import handed_over
from flowport.run.rank_place import first, options_of
from flowport.run.run_folder import RunFolder, check_fits, check_resumable, write_json
from flowport.run.trainer_options import lightning_options, processes_of
from flowport.run.watching import settled, steps_done, watch_of
from flowport.tensors import float32_products
from flowport.training import ranks
from flowport.training.callback import (
    AtomicCheckpointIO,
    Checkpointing,
    ProgressBar,
    ProgressLog,
    ResumeFinished,
    SampleLogger,
    StepLogger,
    StepProfile,
    TrainingClock,
)

logger = logging.getLogger(__name__)
QUIET = (
    ".*module\\(s\\) in eval mode.*",  # the moving average, on purpose
    ".*isinstance\\(treespec, LeafSpec\\).*",  # torch's note to Lightning
    ".*resuming from a checkpoint that ended before the epoch.*",  # batches are a function of the step
    ".*smaller than the logging interval.*",
    ".*does not have many workers.*",
    ".*`srun` command is available on your system but is not used.*",  # on every login node
    ".*returned a view tensor.*",  # FSDP2's note on in-place operations, which no network applies to its output
)
"""Warnings of Lightning's that mislead here."""


def build_trainer(
    config: DictConfig, folder: RunFolder, callbacks: list[lightning.Callback], done: int | None = None
) -> lightning.Trainer:
    """Lightning's Trainer with the run's callbacks, logger and atomic checkpoints.

    Args:
        config: A composed config, of which ``trainer``, ``logger`` and ``callback`` are read.
        folder: The run's.
        callbacks: Beside the progress bar.
        done: Number of steps of the checkpoint that the run resumes from; None for a new run.

    Raises:
        FlowportError: For options that Lightning refuses, for instance an accelerator that this machine does not have.
    """
    options, place = config.trainer, places(config.trainer)
    steps, batches = options.max_steps, options.get("accumulate_grad_batches", 1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for note in QUIET:
        warnings.filterwarnings("ignore", note)
    between = options.get("val_check_interval", 1.0)
    if isinstance(between, int):
        between = min(between, steps) * batches  # Lightning counts batches
    bar = [ProgressBar()] if options.get("enable_progress_bar", True) else []
    several = options_of(processes_of(options), options.get("strategy", "auto"))
    plugins = [AtomicCheckpointIO(), *several.pop("plugins", [])]
    try:
        return instantiate(lightning_options(options))(
            **place,
            **several,
            callbacks=[*callbacks, *callbacks_of(config), *bar],
            logger=loggers_of(config, folder, done),
            plugins=plugins,
            default_root_dir=folder.path,
            enable_checkpointing=False,  # a callback of flowport's saves
            # One epoch is the whole training, so that the progress bar knows its end.
            limit_train_batches=steps * batches,
            val_check_interval=between,
            max_epochs=1,
        )
    except FlowportError:
        raise
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        reason = re.split(r"(?<=[^.])\. (?=[A-Z])|\n", str(error))[0]
        raise FlowportError(f"this trainer cannot be built: {reason}") from None


def train(
    config: DictConfig,
    folder: RunFolder,
    resume: bool = False,
    *,
    parts: Parts | None = None,
    base: RunFolder | None = None,
    before: Callable[[Run], dict[str, Any]] | None = None,
    after: Callable[[Run, RunFolder], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train (or resume) a run in its folder, evaluate it, and write its metrics and gallery.

    Where the trainer asks for several processes, this one starts them and waits; of them the first one evaluates and
    writes.

    Args:
        config: A composed config.
        folder: The run's.
        resume: Go on from the folder's last checkpoint.
        parts: What other runs of the same command have built.
        base: The run that a fine-tuning starts from; see ``build``.
        before: Called before a new run is trained; its numbers are reported with the run's, also after a resume.
        after: Called with the trained run after its metrics are written; its numbers are reported, and written, too.

    Returns:
        All numbers; none in another than the first of several processes.

    Raises:
        FlowportError: For parts that do not fit together, and for a checkpoint that does not fit the config.
    """
    if (numbers := handed_over(config, folder, resume)) is not None:
        return numbers
    run, clock = _built(config, parts, base), TrainingClock()
    evaluation = run.evaluation  # before training, so that a sampler or metric that does not fit is refused now
    done = _resumed(run, folder) if resume else None
    names = check_measures(run, config.get("optimise"))
    if first():
        folder.write_config(config, {"source": remember(run.module.source), "target": remember(run.module.target)})
    if not resume:
        _measured_before(run, folder, before)
    saving = Checkpointing(folder.checkpoint, config.checkpoint_every, config.get("checkpoint_minutes"))
    samples = SampleLogger(evaluation, folder.gallery if config.get("gallery", True) else None)
    watches = watch_of(run, folder, saving, clock)
    told = [_progress(folder), StepLogger(), samples, clock, *watches]
    trainer = build_trainer(config, folder, [ResumeFinished(), *told, saving, *_profiled(config, folder)], done)
    observers = Observers(trainer.loggers)
    if not resume:
        observers.describe(
            OmegaConf.to_yaml(config, resolve=True),
            choices(config),
            sorted(name for name in names if not name.endswith("_se")),
        )
    _fit(trainer, run, saving, resume)
    if not first():
        return {}
    run = _gathered(run, folder, parts, base)
    steps, kept = settled(watches, run, trainer.global_step)
    numbers = {
        "train/steps": steps,
        "train/seconds": round(clock.seconds, 2),
        "train/step_ms": round(clock.step_ms, 3),
        **run.facts,
        **folder.read_before(),
        **kept,
        **_coupled(run, steps * trainer.accumulate_grad_batches - 1),
    }
    numbers.update(measure(run, folder, trainer.strategy.root_device, config.get("gallery", True)))
    concluded = resume and steps == _concluded(folder)
    numbers.update(_after(run, folder, numbers, after))
    if not concluded:
        observers.conclude(numbers, steps, folder.pictures())
    observers.close()
    folder.write_metrics(numbers)
    return numbers


def _built(config: DictConfig, parts: Parts | None, base: RunFolder | None) -> Run:
    require_present(config.trainer)
    return build(config, parts, base)


def _gathered(run: Run, folder: RunFolder, parts: Parts | None, base: RunFolder | None) -> Run:
    """A run whose weights are split over processes, with all of them as its checkpoint holds them."""
    if not run.module.split:
        return run
    alone = build(run.config, parts, base).module
    alone.load_state_dict(folder.read_checkpoint()["state_dict"])
    return replace(run, module=alone.to(run.module.device))


def _progress(folder: RunFolder) -> ProgressLog:
    """What tells how far the training is, for a job of a sweep also in a file of its folder."""
    return ProgressLog(folder.progress if first() and folder.status.is_file() else None)


def _profiled(config: DictConfig, folder: RunFolder) -> list[lightning.Callback]:
    return [StepProfile(folder.trace, folder.profile)] if config.get("profile") and first() else []


def _measured_before(run: Run, folder: RunFolder, before: Callable[[Run], dict[str, Any]] | None) -> None:
    """Call ``before`` in every process, since it may change the run, and write its numbers in the first one."""
    found = before(run) if before else {}
    if first():
        folder.before.unlink(missing_ok=True)
        if found:
            write_json(folder.before, found)


def _coupled(run: Run, batch: int) -> dict[str, Any]:
    """coupling/<fact> of the plan from which a batch was drawn."""
    return {f"coupling/{name}": value for name, value in run.data.train.facts_of(batch).items()}


def _fit(trainer: lightning.Trainer, run: Run, saving: Checkpointing, resume: bool) -> None:
    """Train, save, and stop where a signal has come.

    On CUDA float32 is rounded to TF32 in products unless ``trainer.tf32=false``, which is said.
    """
    device = trainer.strategy.root_device
    tf32 = device.type == "cuda" and run.config.trainer.get("tf32", True)
    if tf32:
        logger.info(
            "training on %s rounds float32 to TF32 in products (trainer.tf32=false: full float32); evaluation does not",
            torch.cuda.get_device_name(device),
        )
    with float32_products(tf32):
        trainer.fit(run.module, run.data, ckpt_path=saving.checkpoint if resume else None)
    trainer.save_checkpoint(saving.checkpoint)
    ranks.leave()
    saving.check()


def _resumed(run: Run, folder: RunFolder) -> int:
    """The number of steps of the checkpoint that a run resumes from, which is checked to fit the run."""
    checkpoint = folder.read_checkpoint()
    check_fits(run.module, checkpoint["state_dict"], folder.checkpoint)
    trained = (p for p in run.module.field.parameters() if p.requires_grad)
    check_resumable(checkpoint, folder.checkpoint, run.module.make_optimizer(trained))
    if len(checkpoint["lr_schedulers"]) != (run.module.make_scheduler is not None):
        raise FlowportError(f"{folder.checkpoint} does not hold the state of this run's scheduler")
    folder.read_before()
    return steps_done(checkpoint, run.config)


def _after(
    run: Run, folder: RunFolder, numbers: dict[str, Any], after: Callable[[Run, RunFolder], dict[str, Any]] | None
) -> dict[str, Any]:
    """The numbers of ``after``, once those before it are written: they are not lost where it fails."""
    if after is None:
        return {}
    folder.write_metrics(numbers, pending="certificate")
    return after(run, folder)


def _concluded(folder: RunFolder) -> Any:
    """The number of steps after which the folder's numbers were measured before; None where they never were."""
    try:
        return folder.read_metrics().get("train/steps") if folder.finished else None
    except FlowportError:  # a damaged file, which is written anew
        return None
