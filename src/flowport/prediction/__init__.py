"""Predictions: what a network's output means (velocity, end point, score, or a combination)."""

from flowport.prediction.base import FlowState, Prediction, endpoints
from flowport.prediction.endpoint import ScorePrediction, SourcePrediction, TargetPrediction
from flowport.prediction.preconditioned import EDMPrediction, VPrediction
from flowport.prediction.velocity import BridgePrediction, VelocityPrediction

__all__ = [
    "BridgePrediction",
    "EDMPrediction",
    "FlowState",
    "Prediction",
    "ScorePrediction",
    "SourcePrediction",
    "TargetPrediction",
    "VPrediction",
    "VelocityPrediction",
    "endpoints",
]
