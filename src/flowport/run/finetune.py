"""A tuned run: the config of its base with one more entry of ``tuning``, trained from the base's weights."""

import logging
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from flowport.errors import FlowportError
from flowport.evaluation.sweep_table import MeanAndError
from flowport.field import Field
from flowport.finetuning.certificate import adjoint_snr, certificate, memory
from flowport.finetuning.method.base import require_method
from flowport.finetuning.path_weights import effective
from flowport.reward import Reward
from flowport.run.build import Parts, Run, checked_config, make
from flowport.run.config_checks import check_keys, check_kind, check_values
from flowport.run.device import accelerator_of, asked
from flowport.run.run_folder import RunFolder
from flowport.run.train import train
from flowport.run.trainer_options import refuse_split
from flowport.run.watching import check_watch, settings_of
from flowport.tensors import float32_products
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Pair

logger = logging.getLogger(__name__)
OWN = (
    *("optimizer", "scheduler", "trainer", "ema_decay", "seed", "threads", "certified", "optimise"),
    *("checkpoint_every", "checkpoint_minutes"),
    *("capture", "profile"),
)
"""Keys of a fine-tuning that replace the base's."""
IF_SAID = ("solver", "grid", "volatility", "metric", "evaluation_items", "logger", "callback")
"""Keys that stay the base's where they are null."""
SNR_STATES, SNR_PATHS = 16, 64
"""States and paths from each of them from which the adjoint's signal-to-noise ratio is estimated."""
APART = 0.05
"""Variance of the memory certificate from which on its two tilts are called different."""


def check_overrides(overrides: DictConfig, parts: Parts) -> None:
    """Check what can be known before a base is trained.

    Args:
        overrides: The composed config of the command.
        parts: What the command has built.

    Raises:
        FlowportError: For a strength, weights or an objective that no fine-tuning takes, and for a reward without the
            gradient that the method needs.
    """
    check_keys(overrides)
    check_values(overrides)
    check_watch(overrides)
    check_kind("strength", overrides.strength, float)
    check_kind("certified", overrides.certified, int, 2)
    refuse_split(overrides.trainer, "fine-tuning")
    asked(overrides)
    if overrides.weights not in ("ema", "raw"):
        raise FlowportError(f"weights={overrides.weights} is unknown: use weights=ema or weights=raw")
    method = require_method(make(overrides.method))
    reward = overrides.get("reward") and parts.plain_reward(overrides.reward)
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


def tuned_config(folder: RunFolder, overrides: DictConfig) -> DictConfig:
    """The config of a run that tunes the run in ``folder``.

    Args:
        folder: The base.
        overrides: The composed config of the command, checked.

    Raises:
        FlowportError: For a folder without a trained flow.
    """
    check_reward(overrides)
    config = checked_config(folder)
    if not folder.begun:
        folder.read_checkpoint()  # which says what is missing
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
    first = [*before, *([signal_to_noise] if entry.adjoint_snr else [])]
    return train(
        config,
        folder,
        resume,
        parts=parts,
        base=None if resume else RunFolder(Path(entry.base.run)),
        before=lambda run: reduce(or_, (measure(run) for measure in first), {}),
        after=after or certified,
    )


@float32_products(tf32=False)
def signal_to_noise(run: Run) -> dict[str, Any]:
    """adjoint_snr/<number>: slopes and signals of the adjoint before any training; what they mean is logged.

    Args:
        run: Built, not yet trained.
    """
    module = run.module
    assert isinstance(module, FineTuneModule)
    device, randomness = next(module.parameters()).device, module.randomness.under("adjoint_snr")
    logger.info("before training: the adjoint's signal, from %d states with %d paths each", SNR_STATES, SNR_PATHS)
    pairing = run.data.placed(device).split("train")
    source, target = (
        side.sample(SNR_STATES, randomness.generator(name))
        for name, side in (("source", pairing.source), ("target", pairing.target))
    )
    found = adjoint_snr(
        module.ema.base,
        module.reward,
        module.strength,
        Pair(source, target),
        randomness.generator("paths"),
        SNR_PATHS,
    )
    logger.log(logging.INFO if found.clear else logging.WARNING, found.sentence())
    numbers = {"slope": found.slopes, "signal": found.signals}
    return {
        f"adjoint_snr/{name}_{t:.2f}": value
        for name, values in numbers.items()
        for t, value in zip(found.times, values, strict=True)
    }


@float32_products(tf32=False)
def certified(run: Run, folder: RunFolder) -> dict[str, Any]:
    """tune/<number> of the certificate, tune/memory, and the picture of starts, base results and tuned results.

    Args:
        run: A trained run.
        folder: Where the picture goes.
    """
    module = run.module
    assert isinstance(module, FineTuneModule)
    device, randomness = next(module.parameters()).device, module.randomness.under("certificate")
    pairing = run.data.placed(device).split("test")
    source, target = (
        side.every(run.config.certified, randomness.under(name))
        for name, side in (("source", pairing.source), ("target", pairing.target))
    )
    n = min(len(source), len(target))
    pair, starts = Pair(source[:n], target[:n]), max(2, n // 16)
    numbers = certificate(module.ema, module.reward, module.strength, pair, randomness.generator("paths"))
    variance = memory(
        module.ema.base,
        module.reward,
        module.strength,
        pair.take(slice(starts), slice(starts)),
        randomness.generator("memory"),
    )
    logger.info(
        "aimed at %s; its paths reach %.2f of the strength (effective size %.2f): mean reward %.4g, tilt %.4g, "
        "base %.4g",
        module.method.target,
        numbers["reached"],
        numbers["effective"],
        *(numbers[name] / module.strength for name in ("reward", "tilted_reward", "base_reward")),
    )
    if variance > APART:
        logger.info(
            "the tilt of every start is not that of the whole (tune/memory=%.2g): boosting.rounds=3 goes on towards it",
            variance,
        )
    samples = sampled(run, folder, pair, randomness.generator("samples"))
    return {**{f"tune/{name}": number for name, number in numbers.items()}, "tune/memory": variance, **samples}


def through(run: Run, pair: Pair, generator: torch.Generator, *fields: Field) -> list[Tensor]:
    """Results of several flows from the same starts and the same noise, by the run's own sampler, each (n, *D).

    Args:
        run: Whose sampler is used.
        pair: Starts, and the labels of the targets.
        generator: Of the noise.
        *fields: The flows.
    """
    state, ends = generator.get_state(), []
    for field in fields:
        generator.set_state(state)
        ends.append(run.sampler.translator(field).forward(pair.source, generator, pair.target.label).end)
    return ends


def sampled(run: Run, folder: RunFolder, pair: Pair, generator: torch.Generator) -> dict[str, float]:
    """The same starts and noise through the base and the tuned flow by the run's own sampler; writes before_after.png.

    sampled/reward, base_reward: mean λr; gain, gain_se: mean and standard error of the λr that every start won;
    spread, base_spread: variance of a number of the results; where the source is noise also tilted_reward,
    tilted_spread, effective: of the base's results weighted by e^{λr}, which is the tilt.

    Args:
        run: A trained run.
        folder: Where the picture goes.
        pair: Starts, and the labels of the targets.
        generator: Of the noise.
    """
    module, modality = run.module, run.module.target.modality
    assert isinstance(module, FineTuneModule)
    base, tuned = through(run, pair, generator, module.ema.base, module.ema)
    ends, condition = {"base": base, "tuned": tuned}, module.ema.conditioning.sampling(pair.source, pair.target.label)
    reward = {name: module.strength * module.reward.value(x, condition).double() for name, x in ends.items()}
    even = torch.full_like(reward["base"], 1 / len(pair))
    laws = {"": ("tuned", even), "base_": ("base", even)}
    if not module.ema.conditioning.sees_source:
        laws["tilted_"] = ("base", reward["base"].softmax(0))
    won = MeanAndError.of((reward["tuned"] - reward["base"]).tolist())
    numbers = {"sampled/gain": won.mean, "sampled/gain_se": won.error}
    for prefix, (name, w) in laws.items():
        x = ends[name].flatten(1).double()
        numbers[f"sampled/{prefix}reward"] = float(w @ reward[name])
        numbers[f"sampled/{prefix}spread"] = float((w @ (x - w @ x).square()).mean())
    if "tilted_" in laws:
        numbers["sampled/effective"] = float(effective(laws["tilted_"][1], 1))
    if not run.config.get("gallery", True):
        return numbers
    shown = slice(modality.shown)
    rows = {"source": pair.source.x[shown], **{name: x[shown] for name, x in ends.items()}}
    picture = {name: modality.observed(x).cpu() for name, x in rows.items()}
    under = {name: (value[shown] / module.strength).cpu() for name, value in reward.items()}
    modality.surface().sheet(picture, under, str(folder.before_after))
    return numbers
