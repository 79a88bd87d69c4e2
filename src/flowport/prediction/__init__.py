"""What a network's output means."""

from flowport.prediction.base import Hub, Prediction, endpoints
from flowport.prediction.endpoint import Score, Source, Target
from flowport.prediction.velocity import Bridge, Velocity

__all__ = ["Bridge", "Hub", "Prediction", "Score", "Source", "Target", "Velocity", "endpoints"]
