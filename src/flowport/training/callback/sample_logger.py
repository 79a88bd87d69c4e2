"""Looks at the flow while it trains: metrics, a picture, sounds and shapes at every validation, into TensorBoard."""

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from flowport.evaluation.evaluator import Evaluator, gallery
from flowport.training.averaging import AveragedModule

logger = logging.getLogger(__name__)
MESHES = 4
"""Translated clouds that can be turned by hand in TensorBoard."""


class SampleLogger(Callback):
    """Translates held-out points with the averaged field, logs val/<metric>, the gallery, and how translations sound
    and look in space.

    evaluation: how to translate and what to measure; folder: the run's.
    """

    def __init__(self, evaluation: Evaluator, folder: Path) -> None:
        self.evaluation, self.folder = evaluation, folder

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(module, AveragedModule)
        pair = trainer.datamodule.placed(module.device)  # type: ignore[attr-defined]
        source, target = pair.source, pair.target
        outcome = self.evaluation.outcome(module.ema, source, target, module.randomness, part="validation")
        numbers = self.evaluation.measure(outcome)
        picture = gallery(outcome, target.modality, self.folder / "gallery.png")
        seen = target.modality.surface()
        for log in trainer.loggers:
            log.log_metrics({f"val/{k}": v for k, v in numbers.items()}, trainer.global_step)
            if isinstance(log, TensorBoardLogger):
                log.experiment.add_image("gallery", picture, trainer.global_step)
                sound = seen.sound(outcome.result[:1])
                if sound is not None:
                    log.experiment.add_audio("translation", sound.waves[0] / 32768, trainer.global_step, sound.rate)
                shapes = seen.vertices(outcome.result[:MESHES], outcome.source.x[:MESHES])
                if shapes is not None:
                    log.experiment.add_mesh(
                        "translation", shapes.points, shapes.colours, global_step=trainer.global_step
                    )
        logger.info("step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
