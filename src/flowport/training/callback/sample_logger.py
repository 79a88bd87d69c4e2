"""Metrics, pictures, sounds and shapes of translations during training, for TensorBoard."""

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from flowport.evaluation.evaluator import Evaluator, gallery
from flowport.training.averaging import AveragedModule

logger = logging.getLogger(__name__)
MESHES = 4
"""Number of translated point clouds that are logged as meshes."""


class SampleLogger(Callback):
    """Callback that evaluates the averaged field at every validation and logs the results.

    It translates held-out points, logs every metric as val/<metric> and the gallery, and in TensorBoard also sounds and
    point clouds, where the modality of the target has them.

    Args:
        evaluation: Translates points and measures the result.
        picture: File of the gallery.
    """

    def __init__(self, evaluation: Evaluator, picture: Path) -> None:
        self.evaluation, self.picture = evaluation, picture

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(module, AveragedModule)
        pair = trainer.datamodule.placed(module.device)  # type: ignore[attr-defined]
        source, target = pair.source, pair.target
        outcome = self.evaluation.outcome(module.ema, source, target, module.randomness, part="validation")
        numbers = self.evaluation.measure(outcome)
        picture = gallery(outcome, target.modality, self.picture)
        surface = target.modality.surface()
        for log in trainer.loggers:
            log.log_metrics({f"val/{k}": v for k, v in numbers.items()}, trainer.global_step)
            if isinstance(log, TensorBoardLogger):
                log.experiment.add_image("gallery", picture, trainer.global_step)
                sound = surface.sound(outcome.result[:1])
                if sound is not None:
                    log.experiment.add_audio("translation", sound.waves[0] / 32768, trainer.global_step, sound.rate)
                shapes = surface.vertices(outcome.result[:MESHES], outcome.source.x[:MESHES])
                if shapes is not None:
                    log.experiment.add_mesh(
                        "translation", shapes.points, shapes.colours, global_step=trainer.global_step
                    )
        logger.info("step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
