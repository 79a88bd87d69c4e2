"""Metrics of translations: distances between laws, costs of transport, classifier metrics, clouds and sound."""

from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.class_accuracy import ClassAccuracy, ClassDiversity
from flowport.metric.clouds import CloudDistance, coverage, nearest_neighbour_accuracy
from flowport.metric.discrepancy import MMD, EnergyDistance, energy_distance, mmd
from flowport.metric.features import FrechetDistance, KernelDistance, frechet_distance, kernel_distance
from flowport.metric.few_steps import FewSteps
from flowport.metric.geometry import Geometry, gromov_wasserstein, two_nn_dimension
from flowport.metric.partners import Partners, retrieval
from flowport.metric.path_energy import (
    NormalisedPathEnergy,
    Straightness,
    TransportCost,
    path_energy,
    straightness,
    transport_cost,
)
from flowport.metric.preservation import ClassPreservation, TargetShare
from flowport.metric.sound import PitchError, SpectralDistance, log_spectral_distance, mel_cepstral_distortion
from flowport.metric.torus import TorusFit, torus_fit
from flowport.metric.wasserstein import SlicedWasserstein, Wasserstein, sliced_wasserstein_2, wasserstein_2

__all__ = [
    "MMD",
    "ClassAccuracy",
    "ClassDiversity",
    "ClassPreservation",
    "CloudDistance",
    "EnergyDistance",
    "EvaluationResult",
    "FewSteps",
    "FrechetDistance",
    "Geometry",
    "KernelDistance",
    "Metric",
    "NormalisedPathEnergy",
    "Partners",
    "PitchError",
    "SlicedWasserstein",
    "SpectralDistance",
    "Straightness",
    "TargetShare",
    "TorusFit",
    "TransportCost",
    "Wasserstein",
    "coverage",
    "energy_distance",
    "frechet_distance",
    "gromov_wasserstein",
    "kernel_distance",
    "log_spectral_distance",
    "mel_cepstral_distortion",
    "mmd",
    "nearest_neighbour_accuracy",
    "path_energy",
    "retrieval",
    "sliced_wasserstein_2",
    "straightness",
    "torus_fit",
    "transport_cost",
    "two_nn_dimension",
    "wasserstein_2",
]
