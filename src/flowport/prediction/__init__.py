"""Predictions: what a network's output means (velocity, end point or score)."""

from flowport.prediction.base import FlowState, Prediction, endpoints
from flowport.prediction.endpoint import ScorePrediction, SourcePrediction, TargetPrediction
from flowport.prediction.velocity import BridgePrediction, VelocityPrediction

__all__ = [
    "BridgePrediction",
    "FlowState",
    "Prediction",
    "ScorePrediction",
    "SourcePrediction",
    "TargetPrediction",
    "VelocityPrediction",
    "endpoints",
]
