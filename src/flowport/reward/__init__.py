"""Rewards r(x1), towards which a flow is fine-tuned."""

from flowport.reward.base import Reward
from flowport.reward.classes import ClassLogProbability, ClassProbability, Legibility, SemanticConsistency
from flowport.reward.clip import CLIPScore
from flowport.reward.cloud import CloudSymmetry, Extent
from flowport.reward.compressibility import Compressibility
from flowport.reward.decoded import DecodedReward
from flowport.reward.distance import DistanceReward
from flowport.reward.from_file import FromFileReward
from flowport.reward.image import Brightness, Colour, Smoothness, Symmetry
from flowport.reward.own_code import from_code
from flowport.reward.plain import PlainReward, adapted
from flowport.reward.quadratic import LinearReward, QuadraticReward
from flowport.reward.sound import SpectralCentroid
from flowport.reward.sum import SumReward

__all__ = [
    "Brightness",
    "CLIPScore",
    "ClassLogProbability",
    "ClassProbability",
    "CloudSymmetry",
    "Colour",
    "Compressibility",
    "DecodedReward",
    "DistanceReward",
    "Extent",
    "FromFileReward",
    "Legibility",
    "LinearReward",
    "PlainReward",
    "QuadraticReward",
    "Reward",
    "SemanticConsistency",
    "Smoothness",
    "SpectralCentroid",
    "SumReward",
    "Symmetry",
    "adapted",
    "from_code",
]
