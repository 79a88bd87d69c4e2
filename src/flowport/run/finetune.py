"""A tuned run: the config of its base with one more entry of ``tuning``, trained from the base's weights."""

import logging
from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from operator import or_
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, Positive
from flowport.finetuning.adjoint_snr import adjoint_snr
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.method.base import require_method
from flowport.finetuning.pilot import advice
from flowport.finetuning.probe import PROBED
from flowport.finetuning.tilt_mass import warn_of_mass
from flowport.finetuning.tuning_points import drawn
from flowport.network.pieces import pieces_of
from flowport.reward import Reward
from flowport.run.build import Parts, Run, check_optimizer, checked_config, make
from flowport.run.certified import certified, rewards_of
from flowport.run.config_checks import check_keys, check_kind, check_values
from flowport.run.device import accelerator_of, asked
from flowport.run.piloted import piloted, reported
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from flowport.run.trainer_options import check_trainer, refuse_split
from flowport.run.watching import check_watch, settings_of
from flowport.tensors import float32_products
from flowport.training.finetune_module import FineTuneModule

logger = logging.getLogger(__name__)
OWN = (
    *("optimizer", "scheduler", "trainer", "ema_decay", "seed", "threads", "certified", "optimise"),
    *("checkpoint_every", "checkpoint_minutes"),
    *("capture", "profile", "rows", "checkpointing", "trajectories"),
)
"""Keys of a fine-tuning that replace the base's."""
IF_SAID = ("solver", "grid", "volatility", "metric", "evaluation_items", "logger", "callback")
"""Keys that stay the base's where they are null."""
SNR_STATES, SNR_PATHS = 16, 64
"""States and paths from each of them from which the adjoint's signal-to-noise ratio is estimated."""


def check_overrides(overrides: DictConfig, parts: Parts) -> None:
    """Check what can be known before a base is trained.

    Args:
        overrides: The composed config of the command.
        parts: What the command has built.

    Raises:
        FlowportError: For a strength, weights, a method, a trainer or an optimiser that no fine-tuning takes, and for a
            reward without the gradient that the method needs.
    """
    check_keys(overrides)
    check_values(overrides)
    check_trainer(OmegaConf.create({key: value for key, value in overrides.trainer.items() if value is not None}))
    check_optimizer(overrides)
    check_watch(overrides)
    check_kind("strength", overrides.strength, Positive)
    check_kind("certified", overrides.certified, int, 2)
    refuse_split(overrides.trainer, "fine-tuning")
    asked(overrides)
    if overrides.weights not in ("ema", "raw"):
        raise FlowportError(f"weights={overrides.weights} is unknown: use weights=ema or weights=raw")
    method, reward = make(overrides.method), overrides.get("reward") and parts.plain_reward(overrides.reward)
    if isinstance(method, AutoMethod):
        return
    require_method(method)
    if isinstance(reward, Reward):  # a partial waits for a classifier
        method.accept_reward(reward)


def check_reward(overrides: DictConfig) -> None:
    """Check that there is a reward.

    Args:
        overrides: The composed config of the command.

    Raises:
        FlowportError: Where there is none.
    """
    if overrides.get("reward") is None:
        raise FlowportError("nothing to tune for: say reward=<name>, for instance reward=brightness")


def tuned_config(folder: RunFolder, overrides: DictConfig, parts: Parts | None = None) -> DictConfig:
    """The config of a run that tunes the run in ``folder``; of ``method=auto`` it holds what the pilot chose.

    Args:
        folder: The base.
        overrides: The composed config of the command, checked.
        parts: What the command has built.

    Raises:
        FlowportError: For a folder without a trained flow.
    """
    check_reward(overrides)
    config = checked_config(folder)
    if not folder.begun:
        folder.read_checkpoint()  # which says what is missing
    overrides, stated = piloted(folder, overrides, parts or Parts())
    adapter = OmegaConf.create(OmegaConf.to_container(overrides.adapter, resolve=True))
    if "network" in adapter and adapter.network is None:
        adapter.network = config.network
    method = require_method(make(overrides.method))
    entry = {
        "reward": overrides.reward,
        "method": overrides.method,
        "adapter": adapter,
        "strength": overrides.strength,
        "adjoint_snr": overrides.adjoint_snr,
        "base": {"run": str(folder), "weights": overrides.weights, "checkpoint": folder.digest},
        "aim": method.target,
        **({"pilot": stated} if stated else {}),
    }
    own = config.trainer
    for key in OWN:
        config[key] = overrides[key]
    config.trainer = _trainer(own, overrides)
    for key, value in settings_of(overrides).items():
        config[key] = value
    for key in IF_SAID:
        if overrides.get(key) is not None:
            config[key] = overrides[key]
    config.tuning = [*(config.get("tuning") or []), entry]
    config.stage = {"_target_": "flowport.run.stage.FineTuningStage"}
    config.data.batch, config.data.validation_items = overrides.starts, overrides.starts
    config.data.repeat = method.steps_per_rollout
    config.run, config.gallery = None, bool(overrides.get("gallery", True))
    return config


def _trainer(own: DictConfig, overrides: DictConfig) -> DictConfig:
    """The trainer of the command; what it leaves null of its accelerator is that of the run."""
    trainer: DictConfig = overrides.trainer.copy()
    chosen = trainer.get("accelerator")
    trainer.accelerator = accelerator_of(own, overrides) if chosen is None else asked(overrides) or chosen
    if trainer.get("precision") is None:
        trainer.precision = "32-true"
    return trainer


def tune(
    config: DictConfig,
    folder: RunFolder,
    resume: bool = False,
    *,
    parts: Parts | None = None,
    before: Sequence[Callable[[Run], dict[str, Any]]] = (),
    after: Callable[[Run, RunFolder], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Tune (or resume) a run in its folder; writes what training writes, the certificate, and before_after.png.

    Args:
        config: Of ``tuned_config``.
        folder: The run's.
        resume: Go on from the folder's last checkpoint.
        parts: What other runs of the same command have built.
        before: Called before a new run is trained; their numbers are reported with the run's.
        after: Called with the trained run; by default ``certified``.

    Returns:
        All numbers.
    """
    entry = config.tuning[-1]
    first = [*before, mass, lambda run: reported(entry), *([signal_to_noise] if entry.adjoint_snr else [])]
    return train(
        config,
        folder,
        resume,
        parts=parts,
        base=None if resume else RunFolder(Path(entry.base.run)),
        before=lambda run: reduce(or_, (measure(run) for measure in first), {}),
        after=after or certified,
    )


def mass(run: Run) -> dict[str, Any]:
    """Say in the log where the reward grows so fast that its tilt may not exist; no numbers.

    Args:
        run: Built, not yet trained.
    """
    module = run.module
    assert isinstance(module, FineTuneModule)
    if not module.field.conditioning.sees_source:
        warn_of_mass(module.reward, module.strength, module.target)
    return {}


@float32_products(tf32=False)
def signal_to_noise(run: Run) -> dict[str, Any]:
    """adjoint_snr/<number>: slopes and signals of the adjoint before any training, with their errors.

    What they mean is logged: a warning only where they are bad beyond their errors, with the method to use instead.

    Args:
        run: Built, not yet trained.
    """
    module = run.module
    assert isinstance(module, FineTuneModule)
    device, randomness = next(module.parameters()).device, module.randomness.under("adjoint_snr")
    logger.info("before training: the adjoint's signal, from %d states with %d paths each", SNR_STATES, SNR_PATHS)
    train, rows = run.data.placed(device).split("train"), run.config.get("rows")
    pair = drawn(train.source, train.target, SNR_STATES, randomness)
    with pieces_of(rows or PROBED, module.ema.base, *rewards_of(module)):
        found = adjoint_snr(
            module.ema.base,
            module.reward,
            module.strength,
            pair,
            randomness.generator("paths"),
            SNR_PATHS,
            rows=rows,
        )
    use = advice(found, prod(pair.source.x.shape[1:]), module.ema.base.conditioning)
    logger.log(logging.WARNING if found.alarming else logging.INFO, found.sentence(use))
    return {f"adjoint_snr/{name}": value for name, value in found.numbers().items()}
