"""A tuning beside its base every so many steps, and the weights that a stop rule keeps."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.evaluation.sweep_table import MeanAndError
from flowport.evaluation.tuning_view import REWARD, TERM, TunedResults, TuningView
from flowport.sampling.sampler import Sampler
from flowport.training import ranks
from flowport.training.callback.checkpoint import AtomicCheckpointIO
from flowport.training.callback.checkpointing import Checkpointing, same_file
from flowport.training.finetune_module import FineTuneModule
from flowport.training.logger import RunLogger
from flowport.training.stop_rule import ENERGY, StopRule, in_config_words
from flowport.types import Pair

logger = logging.getLogger(__name__)
NEVER = -1


class TuningWatch(Callback):
    """Callback that looks at a tuning beside its base before the first step, every ``every`` steps and after the last.

    The averaged field and its base translate the same held-out starts with the same noise by the run's own sampler. All
    loggers get the numbers of ``TunedResults.numbers`` as watch/<name>, a ``RunLogger`` the sheet of starts, base and
    tuned results with their rewards as picture watch/sheet, which is also a file.

    Where a stop rule has limits, the checkpoint within them is kept as ``best`` each time; the first look beyond one
    stops the training. What was kept and what stopped it are part of a checkpoint, so that a resumed run equals an
    unbroken one; a run that was stopped goes on only under wider limits, since it is not known whether the kept
    weights are within narrower ones. Of several processes the first one looks, and all stop after the same step.

    Args:
        sampler: The run's own sampler.
        every: Number of optimiser steps between two looks.
        items: Number of starts, of the validation split.
        rule: When the training is stopped.
        saving: Saves the training; ``best.ckpt`` is beside its checkpoint.
        sheet: Number of a step -> file of its sheet; None: numbers alone.
        paused: A context in which the clock of the training stands still.
    """

    def __init__(
        self,
        sampler: Sampler,
        every: int,
        items: int,
        rule: StopRule,
        saving: Checkpointing,
        sheet: Callable[[int], Path] | None = None,
        paused: Callable[[LightningModule], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.sampler, self.every, self.items, self.rule = sampler, every, items, rule
        self.saving, self.sheet, self.paused = saving, sheet, paused
        self.seen = self.kept = self.stopped = NEVER
        self.broken = ""
        self.steps = 0
        self.view: TuningView | None = None

    @property
    def best(self) -> Path:
        """The checkpoint that is kept."""
        return self.saving.checkpoint.with_name("best.ckpt")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, FineTuneModule)
        self.view, self.steps = None, trainer.global_step  # of this device
        if self.stopped != NEVER:
            logger.info("this tuning was stopped by %s after step %d: other limits let it go on", *self._cause())
            trainer.should_stop = True
            return
        if self.steps == 0 and self.seen == NEVER:
            self._look(trainer, module)
        elif self.rule.limits:
            self._restore_best(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, FineTuneModule)
        completed, self.steps = trainer.global_step > self.steps, trainer.global_step
        if completed and (self.steps % self.every == 0 or self.steps == trainer.max_steps):
            self._look(trainer, module)

    def _look(self, trainer: Trainer, module: FineTuneModule) -> None:
        limits, told = list(self.rule.limits), 0
        if trainer.is_global_zero:
            with nullcontext() if self.paused is None else self.paused(module):
                broken = self._measured(trainer, module)
            told = 1 + limits.index(broken) if broken and self.steps else 0  # before the first step it is the base
        self.seen = self.steps
        if not limits:
            return
        told = ranks.largest(told)
        if told:
            self.stopped, self.broken = self.steps, limits[told - 1]
            trainer.should_stop = True
        else:
            self._keep(trainer)

    def _measured(self, trainer: Trainer, module: FineTuneModule) -> str | None:
        """Look, tell the loggers and the log, and return the limit that is broken."""
        if self.view is None:
            self.view = self._view(trainer, module)
        with trainer.precision_plugin.forward_context():
            found = self.view.results(module.ema, module.reward)
        step, numbers = self.steps, found.numbers()
        for log in trainer.loggers:
            log.log_metrics({f"watch/{name}": value for name, value in numbers.items()}, step)
        if self.sheet is not None:
            picture = self.view.draw(found, module.target.modality, self.sheet(step))
            for log in trainer.loggers:
                if isinstance(log, RunLogger):
                    log.picture("watch/sheet", picture, step)
        logger.info("step %d: %s", step, in_words(found, numbers))
        return self.rule.broken(found)

    def _view(self, trainer: Trainer, module: FineTuneModule) -> TuningView:
        pairing = trainer.datamodule.placed(module.device).split("validation")  # type: ignore[attr-defined]
        randomness = module.randomness.under("watch")
        source = pairing.source.every(self.items, randomness.under("source"))
        target = pairing.target.every(self.items, randomness.under("target"))
        n = min(len(source), len(target))
        return TuningView(self.sampler, Pair(source[:n], target[:n]), randomness)

    def _keep(self, trainer: Trainer) -> None:
        """Save this step and keep it; all processes do."""
        self.kept = self.steps
        self.saving.save(trainer, copy=self.best)

    def _restore_best(self, trainer: Trainer) -> None:
        """Keep the step that is resumed from where the file of the kept one is missing or of another step."""
        if trainer.is_global_zero:
            found = AtomicCheckpointIO().load_checkpoint(self.best)["global_step"] if self.best.is_file() else NEVER
            if found == NEVER or found != self.kept:
                same_file(self.saving.checkpoint, self.best)
                self.kept = trainer.global_step

    def settle(self, module: FineTuneModule, steps: int) -> None:
        """Make the kept checkpoint of a stopped training the last one, and its weights those of the module.

        One line says which rule chose which step.

        Args:
            module: The trained module, of the first process.
            steps: Number of the steps of its trainer.
        """
        rules = in_config_words(self.rule.limits) or "no stop rule"
        if self.stopped == NEVER:
            what = f"{rules} was not reached" if self.rule.limits else rules
            logger.info("%s: the weights of step %d, the last, are those of the run", what, steps)
            return
        kept = AtomicCheckpointIO().load_checkpoint(self.best)
        self.kept = int(kept["global_step"])
        kept["callbacks"][type(self).__name__] = self.state_dict()
        AtomicCheckpointIO().save_checkpoint(kept, self.saving.checkpoint)
        module.load_state_dict(kept["state_dict"])
        logger.info(
            "%s stopped the tuning after step %d: the weights of step %d, the last that were seen within it, are those "
            "of the run",
            *self._cause(),
            self.kept,
        )

    def numbers(self, steps: int) -> dict[str, Any]:
        """What the run has, for its metrics.

        watch/kept_step: the step whose weights the run has; where it was stopped also watch/stopped_step and
        watch/stopped_by.

        Args:
            steps: Number of steps of the training.
        """
        if self.stopped == NEVER:
            return {"watch/kept_step": steps}
        cause, step = self._cause()
        return {"watch/kept_step": self.kept, "watch/stopped_step": step, "watch/stopped_by": cause}

    def _cause(self) -> tuple[str, int]:
        return self._written(self.broken), self.stopped

    def _written(self, key: str) -> str:
        return in_config_words({key: self.rule.limits[key]})

    def state_dict(self) -> dict[str, Any]:
        limits = self.rule.limits
        broken = list(limits).index(self.broken) if self.broken else NEVER
        return {"seen": self.seen, "kept": self.kept, "stopped": self.stopped, "broken": broken, "limits": limits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.kept = int(state_dict["seen"]), int(state_dict["kept"])
        if state_dict["limits"] == self.rule.limits and state_dict["stopped"] != NEVER:
            self.stopped = int(state_dict["stopped"])
            self.broken = list(self.rule.limits)[int(state_dict["broken"])]


def in_words(results: TunedResults, numbers: dict[str, float]) -> str:
    """The numbers of a look in one line.

    Args:
        results: What was seen.
        numbers: Its numbers.
    """
    told = []
    for name in results.values:
        change = results.change(name)
        title = name if name == REWARD else name.removeprefix(TERM)
        told.append(f"{title} {numbers[name]:.4g} (base {numbers[f'base_{name}']:.4g}, change {change})")
    told.append(f"KL to the base {numbers[ENERGY]:.3g} ± {numbers[f'{ENERGY}_se']:.2g} nats")
    if "diversity_share" in numbers:
        share = MeanAndError(numbers["diversity_share"], numbers["diversity_share_se"], len(results.base))
        told.append(f"diversity {share} of the base's")
    return ", ".join(told)
