"""All members of all families as (id, factory): every law runs over a whole list.

A new member is listed here on the day it is written; tests/laws/test_zoo.py fails until it is.
"""

from functools import partial

import torch

from flowport import conditioning, cost, coupling, distribution, modality, path, prediction, reward
from flowport.finetuning import discretisation, method
from flowport.objective import time_sampler as times
from flowport.objective import weighting as weights
from flowport.sampling import divergence, grid, process, solver
from flowport.sampling import volatility as volatilities


def rate(t: torch.Tensor) -> torch.Tensor:
    """The noise rate of path=variance_preserving."""
    return 0.1 + 19.9 * (1 - t)


class Mean(reward.Reward):
    """The mean coordinate, of points of any shape."""

    def forward(self, x1, condition):
        return x1.flatten(1).mean(1)


PATHS = [
    ("linear", path.LinearPath),
    ("linear_sigma_min", lambda: path.LinearPath(sigma_min=0.05)),
    ("linear_noise", lambda: path.LinearPath(noise=0.4)),
    ("trigonometric", path.TrigonometricPath),
    ("polynomial", path.PolynomialPath),
    ("polynomial_mixed", lambda: path.PolynomialPath(1.5, 3.0)),
    ("variance_preserving", path.VariancePreservingPath),
    ("variance_exploding", path.VarianceExplodingPath),
    ("diffusion", lambda: path.DiffusionPath(lambda t: -rate(t) / 2, lambda t: rate(t).sqrt())),
    ("tabulated", lambda: path.TabulatedPath(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 100), 0))),
    ("brownian_bridge", path.BrownianBridge),
    ("smooth_bridge", path.SmoothBridge),
    ("functions", lambda: path.FunctionsPath(lambda t: 1 - t**2, torch.sin)),
    (
        "functions_bridge",
        lambda: path.FunctionsPath(
            lambda t: torch.cos(torch.pi / 2 * t),
            lambda t: t,
            lambda t: 0.7 * torch.sin(torch.pi * t),
            (1e-3, 1 - 1e-3),
        ),
    ),
]

PREDICTIONS = [
    ("velocity", prediction.VelocityPrediction),
    ("target", prediction.TargetPrediction),
    ("source", prediction.SourcePrediction),
    ("score", prediction.ScorePrediction),
    ("bridge", prediction.BridgePrediction),
    ("v", prediction.VPrediction),
    ("edm", partial(prediction.EDMPrediction, 0.7, 1.3)),
]

COUPLINGS = [
    ("independent", coupling.IndependentCoupling),
    ("exact", coupling.ExactCoupling),
    ("class_conditional", coupling.ClassConditionalCoupling),
    ("condition_aware", coupling.ConditionAwareCoupling),
    ("partial", coupling.PartialCoupling),
    ("sinkhorn", coupling.SinkhornCoupling),
    ("unbalanced", coupling.UnbalancedCoupling),
    ("aligned", coupling.AlignedCoupling),
    ("aligned_rotating", lambda: coupling.AlignedCoupling(rotate=True)),
]

SOLVERS = [
    ("euler", solver.Euler),
    ("midpoint", solver.Midpoint),
    ("heun", solver.Heun),
    ("rk4", solver.RK4),
    ("dopri5", solver.Dopri5),
    ("shortcut", solver.ShortcutSolver),
    ("euler_maruyama", solver.EulerMaruyama),
    ("stochastic_heun", solver.StochasticHeun),
    ("ancestral", solver.Ancestral),
    ("ddim", solver.DDIM),
    ("dpm_solver", solver.DPMSolver),
    ("churn", solver.Churn),
    ("feynman_kac", lambda: solver.FeynmanKac(Mean(), particles=2)),
    ("mean_end", lambda: solver.MeanEnd(solver.EulerMaruyama(noiseless_end=False))),
]

TWO = partial(distribution.Mixture, [1, 2], [[-1.0], [0.8]], [0.1, 0.3], dtype="float64")
PROCESSES = [
    ("brownian", lambda: process.BrownianProcess(TWO(), 0.7)),
    ("ornstein_uhlenbeck", lambda: process.OrnsteinUhlenbeckProcess(TWO(), 2.0, 0.4, 0.9)),
    ("langevin", lambda: process.LangevinProcess(TWO(), 0.8)),
    ("noising", lambda: process.NoisingProcess(TWO(), path.VariancePreservingPath())),
    ("reverse", lambda: process.ReverseProcess(process.OrnsteinUhlenbeckProcess(TWO(), 2.0, 0.4, 0.9))),
    ("reverse_noising", lambda: process.ReverseProcess(process.NoisingProcess(TWO(), path.VariancePreservingPath()))),
]

GRIDS = [
    ("uniform", grid.UniformGrid),
    ("power", grid.PowerGrid),
    ("power_early", lambda steps=50: grid.PowerGrid(steps, 0.6)),
    ("log_snr", grid.LogSNRGrid),
]

DIVERGENCES = [
    ("exact", divergence.ExactDivergence),
    ("rademacher", divergence.RademacherDivergence),
    ("rademacher_three", lambda: divergence.RademacherDivergence(3, chunk=2)),
    ("gaussian", divergence.GaussianDivergence),
]

VOLATILITIES = [
    ("zero", volatilities.ZeroVolatility),
    ("constant", volatilities.ConstantVolatility),
    ("sine", volatilities.SineVolatility),
    ("memoryless", volatilities.MemorylessVolatility),
]

TIME_SAMPLERS = [
    ("uniform", times.UniformTimeSampler),
    ("stratified", times.StratifiedTimeSampler),
    ("logit_normal", times.LogitNormalTimeSampler),
    ("power", times.PowerTimeSampler),
    ("beta", times.BetaTimeSampler),
    ("mode", times.ModeTimeSampler),
    ("mode_ends", lambda: times.ModeTimeSampler(-0.8)),
    ("cosmap", times.CosmapTimeSampler),
    ("adaptive", times.AdaptiveTimeSampler),
]

WEIGHTINGS = [
    ("uniform", weights.UniformWeighting),
    ("signal_to_noise", weights.SignalToNoiseWeighting),
    ("score_matching", weights.ScoreMatchingWeighting),
    ("flow_matching", lambda: weights.FlowMatchingWeighting(times.UniformTimeSampler())),
    ("sd3_logit_normal", lambda: weights.FlowMatchingWeighting(times.LogitNormalTimeSampler())),
    ("sd3_mode", lambda: weights.FlowMatchingWeighting(times.ModeTimeSampler())),
    ("sd3_cosmap", lambda: weights.FlowMatchingWeighting(times.CosmapTimeSampler())),
    ("cosine", weights.CosineWeighting),
    ("edm", weights.EDMWeighting),
    ("sigmoid", weights.SigmoidWeighting),
    ("ddpm", weights.DDPMWeighting),
    ("min_snr", lambda: weights.DDPMWeighting(limit=5.0)),
]

# The densities. Laws without one and stored data have their tests in tests/distribution.
DISTRIBUTIONS = [
    ("gaussian", lambda: distribution.Gaussian(mean=[1.0, -0.5], covariance=[[1.0, 0.6], [0.6, 0.8]], dtype="float64")),
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
    ("glyphs", lambda: distribution.Glyphs(size=16)),
    ("solid_views", lambda: distribution.SolidViews(count=100, size=16)),
    ("notes", lambda: distribution.Notes(distribution.Flute(), train=16)),
]

COSTS = [
    ("squared_euclidean", cost.SquaredEuclideanCost),
    ("cosine", cost.CosineCost),
    ("standardised", cost.StandardisedCost),
    ("features", lambda: cost.FeaturesCost(torch.nn.Flatten())),
    ("sliced", cost.SlicedCost),
    ("chamfer", cost.ChamferCost),
    ("earth_mover", cost.EarthMoverCost),
    ("spectral", lambda: cost.SpectralCost(torch.nn.Flatten())),
    (
        "sum",
        lambda: cost.SumCost(
            {"squared": cost.SquaredEuclideanCost(), "cosine": cost.CosineCost()}, {"squared": 1, "cosine": 2}
        ),
    ),
]

CONDITIONINGS = [
    ("none", conditioning.Unconditional),
    ("source", conditioning.SourceConditioning),
    ("source_label", conditioning.SourceLabelConditioning),
    ("target_label", conditioning.TargetLabelConditioning),
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
    ("linear", lambda: reward.LinearReward([1.0, -2.0, 0.5]), (3,)),
    ("quadratic", lambda: reward.QuadraticReward([1.0, -2.0], [[2.0, 0.3], [0.3, 0.7]]), (2,)),
    ("distance", lambda: reward.DistanceReward([0.3, -0.2, 1.0]), (3,)),
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
        lambda: reward.DecodedReward(
            reward.SemanticConsistency(judge(3, 4, 4)), modality.LatentModality(modality.Image(), Stretched())
        ),
        (3, 4, 4),
    ),
    (
        "sum",
        lambda: reward.SumReward(
            {"bright": reward.Brightness(), "legible": partial(reward.Legibility)},
            {"bright": 2.0, "legible": -0.5},
            judge(1, 4, 4),
        ),
        (1, 4, 4),
    ),
]
REWARDS = [(name, make) for name, make, _ in REWARDS_OF]

STEPS = partial(grid.UniformGrid, 5)
TUNINGS = [
    (
        "adjoint_matching",
        lambda: method.AdjointMatching(
            discretisation.ConsistentDiscretisation(STEPS()), early=2, clip=1.6, steps_per_rollout=2
        ),
    ),
    (
        "path_weighted",
        lambda: method.PathWeighted(STEPS(), late=None, batch=32, steps_per_rollout=2, replay_size=2, paths=4),
    ),
    (
        "path_weighted_adjoint",
        lambda: method.PathWeighted(STEPS(), late=0.4, batch=32, steps_per_rollout=2, replay_size=2, paths=4),
    ),
    ("draft", lambda: method.DRaFT(STEPS(), last=2, steps_per_rollout=2)),
    ("refl", lambda: method.ReFL(STEPS(), late=0.4, steps_per_rollout=2)),
    ("reward_weighted", lambda: method.RewardWeighted(STEPS(), batch=32, steps_per_rollout=2, paths=4)),
    ("best_of", lambda: method.RewardWeighted(STEPS(), None, best_of=4, batch=32, steps_per_rollout=2)),
    (
        "tilt_matching",
        lambda: method.TiltMatching(STEPS(), stages=2, noisings=8, batch=32, steps_per_rollout=2, paths=4),
    ),
    ("value_matching", lambda: method.ValueMatching(STEPS(), batch=32, steps_per_rollout=2, paths=4)),
    ("policy_gradient", lambda: method.PolicyGradient(STEPS(), group=4, batch=32, steps_per_rollout=2)),
    ("diffusion_nft", lambda: method.DiffusionNFT(STEPS(), noisings=8, batch=32, steps_per_rollout=2, paths=4)),
    (
        "advantage_weighted",
        lambda: method.AdvantageWeighted(STEPS(), noisings=8, batch=32, steps_per_rollout=2, paths=4),
    ),
]


def named(members: list) -> dict:
    """Keywords of pytest.mark.parametrize for a list of the zoo."""
    return {"argvalues": [make for _, make in members], "ids": [name for name, _ in members]}
