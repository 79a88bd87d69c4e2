"""The parts of a flow joined into what Lightning trains: the one place that knows how they fit."""

from collections.abc import Callable

import torch

from flowport.capabilities import capabilities_of
from flowport.conditioning import Conditioning, Unconditional
from flowport.coupling import Coupling, ExactCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import Pairing, UnpairedPairing
from flowport.distribution.base import Distribution
from flowport.field import LearnedField
from flowport.network import MLP, Network
from flowport.objective import FlowMatching, Objective
from flowport.objective.time_sampler import UniformTimeSampler
from flowport.objective.weighting import UniformWeighting
from flowport.path import LinearPath, Path
from flowport.prediction import Prediction, VelocityPrediction
from flowport.randomness import Randomness
from flowport.training.flow_module import FlowModule


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
    """A module and its data, ready for ``lightning.Trainer.fit``.

    pairing, network, optimizer, scheduler and data are finished here with what the other parts determine (shapes,
    classes, parameters). By default: exact optimal transport on minibatches of 256, the linear path, a small MLP for
    velocities, Adam at 1e-3.
    The weights a run begins with depend on ``seed`` alone. Raises FlowportError for parts that contradict each other.
    """
    randomness = Randomness(seed)
    coupling, path = coupling or ExactCoupling(), path or LinearPath()
    prediction, conditioning = prediction or VelocityPrediction(), conditioning or Unconditional()
    joined = pairing(source=source, target=target)
    capabilities = capabilities_of(source, joined, coupling, path, conditioning, prediction)
    objective = objective or FlowMatching(UniformTimeSampler(), UniformWeighting())
    shape = objective.shown(conditioning.shape(source, target), prediction)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(randomness.number("initial weights"))
        made = network(event_shape=source.event_shape, condition=shape, heads=prediction.heads)
    field = LearnedField(made, path, prediction, conditioning, capabilities, shape.step)
    module = FlowModule(source, target, field, objective, optimizer, scheduler, randomness, ema_decay)
    return module, data(pairing=joined, coupling=coupling, randomness=randomness)
