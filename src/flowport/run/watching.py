"""How a run watches its tuning: the keys ``watch`` and ``stop`` of its config, and what its checkpoint says of them."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from flowport.errors import FlowportError
from flowport.run.build import Run
from flowport.run.config_checks import check_kind
from flowport.run.run_folder import RunFolder
from flowport.training.callback import Checkpointing, TrainingClock, TuningWatch
from flowport.training.callback.checkpoint import admitted
from flowport.training.finetune_module import FineTuneModule
from flowport.training.stop_rule import StopRule, in_config_words

LOOKS = 10
"""Number of looks at a tuning whose ``watch.every`` is null, beside that before the first step."""

ITEMS = 64
"""Number of starts of a look where ``watch.items`` is null, at most: a collection that has fewer is a costly one."""


def check_watch(overrides: DictConfig) -> None:
    """Check ``watch`` and ``stop`` of a command before a base is trained.

    Args:
        overrides: The composed config of the command.

    Raises:
        FlowportError: For keys of another form, and for a stop rule without a watch.
    """
    for key, known in (("watch", ("every", "items")), ("stop", ("energy", "watched"))):
        held = overrides.get(key)
        if held is not None and (not isinstance(held, DictConfig) or set(held) - set(known)):
            raise FlowportError(f"{key}={held} must be null or hold {' and '.join(known)}")
    check_kind("stop.watched", (overrides.get("stop") or {}).get("watched"), dict[str, float] | None)
    _check_watched(overrides)


def _check_watched(config: DictConfig) -> None:
    if rule_of(config).limits and config.get("watch") is None:
        raise FlowportError("stop=… needs what it judges by: leave watch=null out, or the limits of stop")


def rule_of(config: DictConfig) -> StopRule:
    """The stop rule of a config; one without limits where it has none.

    Args:
        config: The composed config of a run or of the command.
    """
    stop = config.get("stop") or {}
    return StopRule(stop.get("energy"), stop.get("watched"))


def settings_of(overrides: DictConfig) -> dict[str, Any]:
    """The keys ``watch`` and ``stop`` as the config of a run has them, with the numbers that were null.

    Args:
        overrides: The composed config of the command.
    """
    watch = overrides.get("watch")
    if watch is not None:
        every = watch.get("every") or max(1, overrides.trainer.max_steps // LOOKS)
        watch = {"every": every, "items": watch.get("items") or max(2, min(ITEMS, overrides.starts))}
    return {"watch": watch, "stop": overrides.get("stop")}


def watch_of(run: Run, folder: RunFolder, saving: Checkpointing, clock: TrainingClock) -> list[TuningWatch]:
    """The callback that watches a tuning; none for a run that is no tuning, or is not watched.

    Args:
        run: Built, not yet trained.
        folder: Its folder.
        saving: Saves its training.
        clock: Of its training, which stands still meanwhile.

    Raises:
        FlowportError: For a watched reward that the run does not have.
    """
    watch = run.config.get("watch")
    if watch is None or not isinstance(run.module, FineTuneModule):
        return []
    rule = rule_of(run.config)
    rule.check(list(run.module.reward.term_rewards))
    sheet = folder.watch_sheet if run.config.get("gallery", True) else None
    return [TuningWatch(run.sampler, watch["every"], watch["items"], rule, saving, sheet, clock.paused)]


def settled(watches: list[TuningWatch], run: Run, steps: int) -> tuple[int, dict[str, Any]]:
    """Give a trained run the weights that its stop rule keeps.

    Args:
        watches: Of ``watch_of``.
        run: Trained.
        steps: Number of the steps of its trainer.

    Returns:
        The number of steps of the training, and what was kept and why, watch/<name>.
    """
    numbers: dict[str, Any] = {}
    for watch in watches:
        assert isinstance(run.module, FineTuneModule)
        watch.settle(run.module, steps)
        steps = max(steps, watch.stopped)
        numbers |= watch.numbers(steps)
    return steps, numbers


def steps_done(checkpoint: Mapping[str, Any], config: DictConfig) -> int:
    """The number of steps after which the record of a run that is resumed goes on.

    A tuning that its stop rule has stopped keeps the record of the steps after the kept ones.

    Args:
        checkpoint: What the run resumes from.
        config: The run's.

    Raises:
        FlowportError: For a stop rule without a watch, and for a limit that is new or narrower than before, since the
            weights of the step that it goes on from were not judged by it.
    """
    state = admitted(dict(checkpoint))["callbacks"].get(TuningWatch.__name__)
    state = state if isinstance(state, dict) else {}
    _check_watched(config)
    limits, steps = rule_of(config).limits, int(checkpoint["global_step"])
    former = state.get("limits")
    former = former if isinstance(former, dict) else {}
    narrower = {key: limit for key, limit in limits.items() if limit < former.get(key, math.inf)}
    if narrower and steps > 0:
        raise FlowportError(
            f"{in_config_words(narrower)}: the weights of step {steps}, from which this tuning would go on, were never "
            f"judged by that (so far {in_config_words(former) or 'no limit'}): say a wider limit, or tune anew"
        )
    stopped = state.get("stopped", 0) if former == limits else 0
    return max(steps, stopped if isinstance(stopped, int) else 0)
