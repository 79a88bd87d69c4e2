"""Loggers of a run: TensorBoard, csv, Weights & Biases and MLflow get the same numbers, pictures, sounds and clouds."""

from flowport.training.logger.base import RunLogger
from flowport.training.logger.csv_file import CsvLogger
from flowport.training.logger.mlflow_run import MlflowLogger
from flowport.training.logger.tensorboard import TensorboardLogger, as_table, charts
from flowport.training.logger.wandb_run import WandbLogger

__all__ = ["CsvLogger", "MlflowLogger", "RunLogger", "TensorboardLogger", "WandbLogger", "as_table", "charts"]
