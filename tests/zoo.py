"""All members of all families as (id, factory): every law runs over a whole list.

A new member is listed here on the day it is written; tests/laws/test_zoo.py fails until it is.
"""

from functools import partial

import torch

from flowport import (
    adjoint,
    conditioning,
    cost,
    coupling,
    distribution,
    divergence,
    grid,
    modality,
    objective,
    path,
    prediction,
    process,
    reward,
    solver,
)
from flowport import time_sampler as times
from flowport import volatility as volatilities
from flowport import weighting as weights


def rate(t: torch.Tensor) -> torch.Tensor:
    """The noise rate of path=variance_preserving."""
    return 0.1 + 19.9 * (1 - t)


PATHS = [
    ("linear", path.Linear),
    ("linear_sigma_min", lambda: path.Linear(sigma_min=0.05)),
    ("linear_noise", lambda: path.Linear(noise=0.4)),
    ("trigonometric", path.Trigonometric),
    ("polynomial", path.Polynomial),
    ("polynomial_mixed", lambda: path.Polynomial(1.5, 3.0)),
    ("variance_preserving", path.VariancePreserving),
    ("variance_exploding", path.VarianceExploding),
    ("diffusion", lambda: path.Diffusion(lambda t: -rate(t) / 2, lambda t: rate(t).sqrt())),
    ("tabulated", lambda: path.Tabulated(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 100), 0))),
    ("brownian_bridge", path.BrownianBridge),
    ("smooth_bridge", path.SmoothBridge),
    ("functions", lambda: path.Functions(lambda t: 1 - t**2, torch.sin)),
    (
        "functions_bridge",
        lambda: path.Functions(
            lambda t: torch.cos(torch.pi / 2 * t),
            lambda t: t,
            lambda t: 0.7 * torch.sin(torch.pi * t),
            (1e-3, 1 - 1e-3),
        ),
    ),
]

PREDICTIONS = [
    ("velocity", prediction.Velocity),
    ("target", prediction.Target),
    ("source", prediction.Source),
    ("score", prediction.Score),
    ("bridge", prediction.Bridge),
]

COUPLINGS = [
    ("independent", coupling.Independent),
    ("exact", coupling.Exact),
    ("class_conditional", coupling.ClassConditional),
    ("condition_aware", coupling.ConditionAware),
    ("partial", coupling.Partial),
    ("sinkhorn", coupling.Sinkhorn),
    ("unbalanced", coupling.Unbalanced),
    ("aligned", coupling.Aligned),
    ("aligned_rotating", lambda: coupling.Aligned(rotate=True)),
]

SOLVERS = [
    ("euler", solver.Euler),
    ("midpoint", solver.Midpoint),
    ("heun", solver.Heun),
    ("rk4", solver.RK4),
    ("dopri5", solver.Adaptive),
    ("shortcut", solver.Shortcut),
    ("euler_maruyama", solver.EulerMaruyama),
    ("stochastic_heun", solver.StochasticHeun),
    ("ancestral", solver.Ancestral),
    ("ddim", solver.DDIM),
    ("dpm_solver", solver.DPMSolver),
    ("churn", solver.Churn),
    ("mean_end", lambda: solver.MeanEnd(solver.EulerMaruyama(noiseless_end=False))),
]

TWO = partial(distribution.Mixture, [1, 2], [[-1.0], [0.8]], [0.1, 0.3], dtype="float64")
PROCESSES = [
    ("brownian", lambda: process.Brownian(TWO(), 0.7)),
    ("ornstein_uhlenbeck", lambda: process.OrnsteinUhlenbeck(TWO(), 2.0, 0.4, 0.9)),
    ("langevin", lambda: process.Langevin(TWO(), 0.8)),
    ("noising", lambda: process.Noising(TWO(), path.VariancePreserving())),
    ("reverse", lambda: process.Reverse(process.OrnsteinUhlenbeck(TWO(), 2.0, 0.4, 0.9))),
    ("reverse_noising", lambda: process.Reverse(process.Noising(TWO(), path.VariancePreserving()))),
]

GRIDS = [
    ("uniform", grid.Uniform),
    ("power", grid.Power),
    ("power_early", lambda steps=50: grid.Power(steps, 0.6)),
    ("log_snr", grid.LogSNR),
]

DIVERGENCES = [
    ("exact", divergence.Exact),
    ("rademacher", divergence.Rademacher),
    ("rademacher_three", lambda: divergence.Rademacher(3, chunk=2)),
    ("gaussian", divergence.Gaussian),
]

VOLATILITIES = [
    ("zero", volatilities.Zero),
    ("constant", volatilities.Constant),
    ("sine", volatilities.Sine),
    ("memoryless", volatilities.Memoryless),
]

TIME_SAMPLERS = [
    ("uniform", times.Uniform),
    ("stratified", times.Stratified),
    ("logit_normal", times.LogitNormal),
    ("power", times.Power),
    ("beta", times.Beta),
    ("mode", times.Mode),
    ("mode_ends", lambda: times.Mode(-0.8)),
    ("cosmap", times.CosMap),
    ("adaptive", times.Adaptive),
]

WEIGHTINGS = [
    ("uniform", weights.Uniform),
    ("signal_to_noise", weights.SignalToNoise),
    ("score_matching", weights.ScoreMatching),
    ("flow_matching", lambda: weights.LinearFlow(times.Uniform())),
    ("sd3_logit_normal", lambda: weights.LinearFlow(times.LogitNormal())),
    ("sd3_mode", lambda: weights.LinearFlow(times.Mode())),
    ("sd3_cosmap", lambda: weights.LinearFlow(times.CosMap())),
    ("cosine", weights.Cosine),
    ("edm", weights.EDM),
    ("sigmoid", weights.Sigmoid),
    ("ddpm", weights.DDPM),
    ("min_snr", lambda: weights.DDPM(limit=5.0)),
]

# The densities. Laws without one and stored data have their tests in tests/distribution.
DISTRIBUTIONS = [
    ("gaussian", lambda: distribution.Gaussian([1.0, -0.5], [[1.0, 0.6], [0.6, 0.8]], dtype="float64")),
    ("mixture", lambda: distribution.Mixture([1, 3], [[-1.5, 0], [1, 1]], [0.3, 0.2], dtype="float64")),
    ("eight_gaussians", lambda: distribution.EightGaussians(dtype="float64")),
    ("moons", distribution.Moons),
    ("checkerboard", distribution.Checkerboard),
    ("s_curve", distribution.SCurve),
    ("digits", distribution.Digits),
    ("mnist", distribution.MNIST),
    ("silhouettes", distribution.Silhouettes),
    ("torus", lambda: distribution.Torus(points=32)),
    ("ellipsoid", lambda: distribution.Ellipsoid(points=32)),
    ("box", lambda: distribution.Box(points=32)),
    ("sphere", lambda: distribution.Sphere(points=32)),
    ("capsule", lambda: distribution.Capsule(points=32)),
    ("knot", lambda: distribution.Knot(points=32)),
    ("superquadric", lambda: distribution.Superquadric(points=32)),
    ("notes", lambda: distribution.Notes(distribution.Flute(), train=16)),
]

COSTS = [
    ("squared_euclidean", cost.SquaredEuclidean),
    ("cosine", cost.Cosine),
    ("standardised", cost.Standardised),
    ("features", lambda: cost.Features(torch.nn.Flatten())),
    ("sliced", cost.Sliced),
    ("chamfer", cost.Chamfer),
    ("earth_mover", cost.EarthMover),
    ("spectral", lambda: cost.Spectral(torch.nn.Flatten())),
    (
        "sum",
        lambda: cost.Sum({"squared": cost.SquaredEuclidean(), "cosine": cost.Cosine()}, {"squared": 1, "cosine": 2}),
    ),
]

CONDITIONINGS = [
    ("none", conditioning.Unconditional),
    ("source", conditioning.SourceItself),
    ("source_label", conditioning.SourceLabel),
    ("target_label", conditioning.TargetLabel),
]


def judge(*event_shape: int) -> torch.nn.Module:
    """A smooth network from points to the logits of 4 classes, float64, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        size = torch.Size(event_shape).numel()
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(size, 8), torch.nn.Tanh(), torch.nn.Dropout(), torch.nn.Linear(8, 4)
        ).double()


class Stretched(modality.latent.Codec):
    """decode z = tanh of twice an image: smooth, not linear."""

    latent_shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.atanh() / self.factor

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return (z * self.factor).tanh()


# id, factory and the shape of points that this one judges.
REWARDS_OF = [
    ("linear", lambda: reward.Linear([1.0, -2.0, 0.5]), (3,)),
    ("quadratic", lambda: reward.Quadratic([1.0, -2.0], [[2.0, 0.3], [0.3, 0.7]]), (2,)),
    ("distance", lambda: reward.Distance([0.3, -0.2, 1.0]), (3,)),
    ("class_log_probability", lambda: reward.ClassLogProbability(judge(3)), (3,)),
    ("class_log_probability_of_2", lambda: reward.ClassLogProbability(judge(1, 4, 4), 2), (1, 4, 4)),
    ("class_probability", lambda: reward.ClassProbability(judge(3), 1, 3.0), (3,)),
    ("legibility", lambda: reward.Legibility(judge(3)), (3,)),
    ("legibility_warm", lambda: reward.Legibility(judge(3), temperature=4), (3,)),
    ("semantic_consistency", lambda: reward.SemanticConsistency(judge(3)), (3,)),
    ("brightness", reward.Brightness, (1, 4, 5)),
    ("colour", lambda: reward.Colour([1, -1, 0.5]), (3, 4, 5)),
    ("symmetry", reward.Symmetry, (1, 4, 5)),
    ("smoothness", reward.Smoothness, (3, 4, 5)),
    ("compressibility", lambda: reward.Compressibility(modality.Image()), (1, 12, 12)),
    ("spectral_centroid", lambda: reward.SpectralCentroid(modality.LogMel()), (1, 64, 3)),
    ("spectral_centroid_stft", lambda: reward.SpectralCentroid(modality.ComplexSTFT()), (2, 256, 3)),
    ("extent", reward.Extent, (3, 16)),
    ("extent_along", lambda: reward.Extent(2), (3, 16)),
    ("cloud_symmetry", reward.CloudSymmetry, (3, 16)),
    ("cloud_symmetry_relative", lambda: reward.CloudSymmetry(relative=True), (3, 16)),
    ("cloud_symmetry_across", lambda: reward.CloudSymmetry(0), (2, 16)),
    (
        "decoded",
        lambda: reward.Decoded(
            reward.SemanticConsistency(judge(3, 4, 4)), modality.Latent(modality.Image(), Stretched())
        ),
        (3, 4, 4),
    ),
    (
        "sum",
        lambda: reward.Sum(
            {"bright": reward.Brightness(), "legible": partial(reward.Legibility)},
            {"bright": 2.0, "legible": -0.5},
            judge(1, 4, 4),
        ),
        (1, 4, 4),
    ),
]
REWARDS = [(name, make) for name, make, _ in REWARDS_OF]

STEPS = partial(grid.Uniform, 5)
TUNINGS = [
    ("adjoint_matching", lambda: objective.AdjointMatching(adjoint.Exact(STEPS()), early=2, clip=1.6, rounds=2)),
    ("path_weighted", lambda: objective.PathWeighted(STEPS(), late=None, batch=32, rounds=2, keep=2, paths=4)),
    ("hybrid", lambda: objective.PathWeighted(STEPS(), late=0.4, batch=32, rounds=2, keep=2, paths=4)),
    ("draft", lambda: objective.DRaFT(STEPS(), last=2, rounds=2)),
    ("refl", lambda: objective.ReFL(STEPS(), late=0.4, rounds=2)),
    ("reward_weighted", lambda: objective.RewardWeighted(STEPS(), batch=32, rounds=2, paths=4)),
    ("best_of", lambda: objective.RewardWeighted(STEPS(), None, best_of=4, batch=32, rounds=2)),
    ("tilt_matching", lambda: objective.TiltMatching(STEPS(), stages=2, noisings=8, batch=32, rounds=2, paths=4)),
    ("value_matching", lambda: objective.ValueMatching(STEPS(), batch=32, rounds=2, paths=4)),
    ("policy_gradient", lambda: objective.PolicyGradient(STEPS(), group=4, batch=32, rounds=2)),
]


def named(members: list) -> dict:
    """Keywords of pytest.mark.parametrize for a list of the zoo."""
    return {"argvalues": [make for _, make in members], "ids": [name for name, _ in members]}
