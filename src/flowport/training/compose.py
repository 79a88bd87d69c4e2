"""Composition of the parts of a flow into the LightningModule and the data that Lightning trains."""

import logging
from collections.abc import Callable

import torch

from flowport.capabilities import capabilities_of
from flowport.conditioning import Conditioning, Unconditional
from flowport.coupling import Coupling, ExactCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import Pairing, UnpairedPairing
from flowport.distribution.base import Distribution
from flowport.errors import option
from flowport.field import LearnedField
from flowport.network import MLP, Network
from flowport.objective import FlowMatching, Objective
from flowport.objective.time_sampler import UniformTimeSampler
from flowport.objective.weighting import UniformWeighting
from flowport.path import LinearPath, Path
from flowport.prediction import EDMPrediction, Prediction, TargetPrediction, VelocityPrediction
from flowport.randomness import Randomness
from flowport.training.flow_module import FlowModule

logger = logging.getLogger(__name__)
GROWTH = 4.0
"""Points of a path that grow to more than this multiple of unit size need their input scaled."""


def compose(
    source: Distribution,
    target: Distribution,
    *,
    pairing: Callable[..., Pairing] = UnpairedPairing,
    coupling: Coupling | None = None,
    path: Path | None = None,
    prediction: Prediction | None = None,
    conditioning: Conditioning | None = None,
    network: Callable[..., Network] = MLP,
    objective: Objective | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
    data: Callable[..., PairDataModule] = PairDataModule,
    ema_decay: float = 0.999,
    seed: int = 0,
) -> tuple[FlowModule, PairDataModule]:
    """Compose a flow into a module and its data, ready for ``lightning.Trainer.fit``.

    By default: minibatch optimal transport on batches of 256, the linear path, a small MLP that predicts velocities,
    and Adam at the rate 1e-3. pairing, network, optimizer, scheduler and data are factories, called with the arguments
    that the other parts determine.

    Args:
        source: The source.
        target: The target.
        pairing: (source, target) -> Pairing, the joint law from which training pairs are drawn.
        coupling: Re-pairs the points of a batch; None for exact optimal transport.
        path: The path of a pair; None for the linear path.
        prediction: What the output of the network means; None for velocities, for the preconditioned denoiser where
            the path's points grow beyond the size of its ends, or for the target on a bridge that sees its start.
        conditioning: What the network gets beside x and t; None for nothing.
        network: (event_shape, condition, heads) -> Network.
        objective: The training objective; None for flow matching with uniform times and weights.
        optimizer: parameters -> Optimizer.
        scheduler: (optimizer, steps) -> LRScheduler; None for a constant rate.
        data: (pairing, coupling, randomness) -> PairDataModule.
        ema_decay: Decay of the exponential moving average of the weights.
        seed: Seed of all randomness; the initial weights depend on it alone.

    Returns:
        The module and the data.

    Raises:
        FlowportError: For parts that contradict each other.
    """
    randomness = Randomness(seed)
    coupling, path = coupling or ExactCoupling(), path or LinearPath()
    conditioning = conditioning or Unconditional()
    prediction = (prediction or _default_prediction(path, conditioning)).fitted(source, target, path.bridge)
    _warn_of_growth(path, prediction)
    _warn_of_bridge(path, prediction, conditioning)
    joined = pairing(source=source, target=target)
    source, target = joined.source, joined.target  # classes or items without a counterpart may be left out
    capabilities = capabilities_of(source, joined, coupling, path, conditioning, prediction)
    objective = objective or FlowMatching(UniformTimeSampler(), UniformWeighting())
    shape = objective.condition_shape(conditioning.shape(source, target), prediction)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(randomness.number("initial weights"))
        made = network(event_shape=source.event_shape, condition=shape, heads=prediction.heads)
    field = LearnedField(made, path, prediction, conditioning, capabilities, shape.step)
    module = FlowModule(source, target, field, objective, optimizer, scheduler, randomness, ema_decay)
    return module, data(pairing=joined, coupling=coupling, randomness=randomness)


def _growth(path: Path) -> float:
    """The largest deviation of x_t for independent ends and noise of unit variance."""
    t = path.clamp(torch.linspace(0, 1, 65, dtype=torch.float64))
    return float((path.alpha(t).square() + path.beta(t).square() + path.gamma(t).square()).amax().sqrt())


def _default_prediction(path: Path, conditioning: Conditioning) -> Prediction:
    if path.bridge and conditioning.sees_source:
        return TargetPrediction()
    return EDMPrediction() if _growth(path) > GROWTH else VelocityPrediction()


def _warn_of_bridge(path: Path, prediction: Prediction, conditioning: Conditioning) -> None:
    """The velocity of a bridge holds noise/√t near its start, which a network that sees the start cannot learn."""
    if path.bridge and conditioning.sees_source and isinstance(prediction, VelocityPrediction):
        logger.warning(
            "the velocity of %s grows without bound near its ends, and a network that predicts it learns badly: use "
            "prediction=target",
            option("path", path),
        )


def _warn_of_growth(path: Path, prediction: Prediction) -> None:
    growth = _growth(path)
    if growth > GROWTH and prediction.input_scale(path, torch.tensor([path.interval[0]])) is None:
        logger.warning(
            "points of %s grow to %.3g times the size of the data, and %s gives them to the network as they are, which "
            "learns badly: use prediction=edm, which scales its input and output",
            option("path", path),
            growth,
            option("prediction", prediction),
        )
