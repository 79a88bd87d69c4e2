"""Rewards r(x1): what a flow is fine-tuned for."""

from flowport.reward.base import Reward
from flowport.reward.classes import ClassLogProbability, ClassProbability, Legibility, SemanticConsistency
from flowport.reward.clip import CLIPScore
from flowport.reward.cloud import CloudSymmetry, Extent
from flowport.reward.compressibility import Compressibility
from flowport.reward.decoded import Decoded
from flowport.reward.distance import Distance
from flowport.reward.from_file import FromFile
from flowport.reward.image import Brightness, Colour, Smoothness, Symmetry
from flowport.reward.quadratic import Linear, Quadratic
from flowport.reward.sound import SpectralCentroid
from flowport.reward.sum import Sum

__all__ = [
    "Brightness",
    "CLIPScore",
    "ClassLogProbability",
    "ClassProbability",
    "CloudSymmetry",
    "Colour",
    "Compressibility",
    "Decoded",
    "Distance",
    "Extent",
    "FromFile",
    "Legibility",
    "Linear",
    "Quadratic",
    "Reward",
    "SemanticConsistency",
    "Smoothness",
    "SpectralCentroid",
    "Sum",
    "Symmetry",
]
