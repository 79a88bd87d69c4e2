"""Metrics, pictures, sounds and shapes of translations during training, for the loggers of a run."""

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from flowport.evaluation.evaluator import Evaluator, evenly, gallery
from flowport.metric.base import EvaluationResult
from flowport.modality.base import Modality
from flowport.training.averaging import AveragedModule
from flowport.training.logger import RunLogger

logger = logging.getLogger(__name__)
MESHES, SOUNDS = 4, 3
"""Number of items whose clouds and whose sounds are logged."""


class SampleLogger(Callback):
    """Callback that evaluates the averaged field at every validation and logs the results.

    It translates held-out points and logs every metric as val/<metric>. A ``RunLogger`` also gets the gallery; sounds
    of source, translation and target as sound_<item>/<row>; and point clouds as meshes source, translation and target,
    where the modality of the target has them. Item k of the target is a partner of item k of the source only where the
    data are paired. Points of source and translation are coloured by their height in the source, those of the target by
    their own.

    Args:
        evaluation: Translates points and measures the result.
        picture: File of the gallery; None: numbers alone, without pictures, sounds and clouds.
    """

    def __init__(self, evaluation: Evaluator, picture: Path | None) -> None:
        self.evaluation, self.picture = evaluation, picture

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, AveragedModule)
        writes = trainer.is_global_zero
        if trainer.sanity_checking or not (writes or module.split):  # to gather split weights takes all processes
            return
        pair, step = trainer.datamodule.placed(module.device), trainer.global_step  # type: ignore[attr-defined]
        source, target = pair.source, pair.target
        outcome = self.evaluation.outcome(module.ema, source, target, module.randomness, part="validation")
        if not writes:
            return
        numbers = self.evaluation.measure(outcome)
        picture = None if self.picture is None else gallery(outcome, target.modality, self.picture)
        for log in trainer.loggers:
            log.log_metrics({f"val/{k}": v for k, v in numbers.items()}, step)
            if picture is not None and isinstance(log, RunLogger):
                log.picture("gallery", picture, step)
                show(outcome, target.modality.surface(), log, step)
        logger.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))


def show(outcome: EvaluationResult, surface: Modality, log: RunLogger, step: int) -> None:
    """Record sounds and clouds of an evaluation; nothing for points that are neither.

    Args:
        outcome: The evaluation.
        surface: Modality of its points.
        log: Where to.
        step: Number of optimiser steps.
    """
    result = outcome.result

    def rows(items: int) -> dict[str, Tensor]:
        whole = {"source": outcome.source.x, "translation": result, "target": outcome.target.x}
        alike = {name: x for name, x in whole.items() if x.shape[1:] == result.shape[1:]}
        return {name: x[evenly(len(x), items)] for name, x in alike.items()}

    for name, x in rows(SOUNDS).items():
        sound = surface.sound(x)
        for k, wave in enumerate([] if sound is None else sound.waves):
            assert sound is not None
            log.sound(f"sound_{k}/{name}", wave, sound.rate, step)
    clouds = rows(MESHES)
    origins = {"translation": clouds.get("source", clouds["translation"])}
    for name, x in clouds.items():
        shapes = surface.vertices(x, origins.get(name, x))
        if shapes is not None:
            log.clouds(name, shapes.points, shapes.colours, step)
