"""Costs c(x0, x1) of pairing two points, which couplings minimise."""

from flowport.cost.base import Cost
from flowport.cost.chamfer import Chamfer
from flowport.cost.cosine import Cosine
from flowport.cost.earth_mover import EarthMover
from flowport.cost.features import Features
from flowport.cost.hog import HOG
from flowport.cost.sliced import Sliced
from flowport.cost.spectral import Spectral
from flowport.cost.squared_euclidean import SquaredEuclidean
from flowport.cost.standardised import Standardised
from flowport.cost.sum import Sum

__all__ = [
    "HOG",
    "Chamfer",
    "Cosine",
    "Cost",
    "EarthMover",
    "Features",
    "Sliced",
    "Spectral",
    "SquaredEuclidean",
    "Standardised",
    "Sum",
]
