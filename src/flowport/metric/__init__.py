"""Metrics: pure functions, and the torchmetrics states that feed them."""

from flowport.metric.base import Metric, Outcome
from flowport.metric.discrepancy import MMD, EnergyDistance, energy_distance, mmd
from flowport.metric.energy import (
    NormalisedPathEnergy,
    Straightness,
    TransportCost,
    path_energy,
    straightness,
    transport_cost,
)
from flowport.metric.features import FrechetDistance, KernelDistance, frechet_distance, kernel_distance
from flowport.metric.preservation import ClassPreservation
from flowport.metric.transport import SlicedWasserstein, Wasserstein, sliced_wasserstein_2, wasserstein_2

__all__ = [
    "MMD",
    "ClassPreservation",
    "EnergyDistance",
    "FrechetDistance",
    "KernelDistance",
    "Metric",
    "NormalisedPathEnergy",
    "Outcome",
    "SlicedWasserstein",
    "Straightness",
    "TransportCost",
    "Wasserstein",
    "energy_distance",
    "frechet_distance",
    "kernel_distance",
    "mmd",
    "path_energy",
    "sliced_wasserstein_2",
    "straightness",
    "transport_cost",
    "wasserstein_2",
]
