"""Costs c(x0, x1) of pairing two points, which couplings minimise."""

from flowport.cost.base import Cost
from flowport.cost.cepstral import CepstralFeatures
from flowport.cost.chamfer import ChamferCost
from flowport.cost.cosine import CosineCost
from flowport.cost.earth_mover import EarthMoverCost
from flowport.cost.features import FeaturesCost
from flowport.cost.hog import HOGFeatures
from flowport.cost.sliced import SlicedCost
from flowport.cost.spectral import SpectralCost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.cost.standardised import StandardisedCost
from flowport.cost.sum import SumCost

__all__ = [
    "CepstralFeatures",
    "ChamferCost",
    "CosineCost",
    "Cost",
    "EarthMoverCost",
    "FeaturesCost",
    "HOGFeatures",
    "SlicedCost",
    "SpectralCost",
    "SquaredEuclideanCost",
    "StandardisedCost",
    "SumCost",
]
