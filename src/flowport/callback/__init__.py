"""Everything that is not the training step."""

from flowport.callback.checkpoint import AtomicCheckpointIO
from flowport.callback.clock import Clock
from flowport.callback.progress import Progress
from flowport.callback.reopen import Reopen
from flowport.callback.watch import Watch

__all__ = ["AtomicCheckpointIO", "Clock", "Progress", "Reopen", "Watch"]
