"""Lightning callbacks and the checkpoint writer of training."""

from flowport.training.callback.checkpoint import AtomicCheckpointIO
from flowport.training.callback.checkpointing import Checkpointing
from flowport.training.callback.clock import TrainingClock
from flowport.training.callback.progress import ProgressBar, ProgressLog
from flowport.training.callback.resume_finished import ResumeFinished
from flowport.training.callback.sample_logger import SampleLogger
from flowport.training.callback.step_logger import StepLogger
from flowport.training.callback.step_profile import StepProfile
from flowport.training.callback.tuning_watch import TuningWatch

__all__ = [
    "AtomicCheckpointIO",
    "Checkpointing",
    "ProgressBar",
    "ProgressLog",
    "ResumeFinished",
    "SampleLogger",
    "StepLogger",
    "StepProfile",
    "TrainingClock",
    "TuningWatch",
]
