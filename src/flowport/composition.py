"""The parts of a flow joined into what Lightning trains: the one place that knows how they fit."""

from collections.abc import Callable

import torch

from flowport.capabilities import capabilities
from flowport.conditioning import Conditioning, Unconditional
from flowport.coupling import Coupling, Exact
from flowport.data import PairDataModule
from flowport.distribution.base import Distribution
from flowport.field import Learned
from flowport.joint import Joint, Product
from flowport.module import FlowModule
from flowport.network import MLP, Network
from flowport.objective import FlowMatching, Objective
from flowport.path import Linear, Path
from flowport.prediction import Prediction, Velocity
from flowport.randomness import Randomness
from flowport.time_sampler import Uniform as UniformTimes
from flowport.weighting import Uniform as UniformWeights


def compose(
    source: Distribution,
    target: Distribution,
    *,
    joint: Callable[..., Joint] = Product,
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

    joint, network, optimizer, scheduler and data are finished here with what the other parts determine (shapes,
    classes, parameters). By default: exact optimal transport on minibatches of 256, the linear path, a small MLP for
    velocities, Adam at 1e-3.
    The weights a run begins with depend on ``seed`` alone. Raises Refusal for parts that contradict each other.
    """
    randomness = Randomness(seed)
    coupling, path = coupling or Exact(), path or Linear()
    prediction, conditioning = prediction or Velocity(), conditioning or Unconditional()
    joined = joint(source=source, target=target)
    able = capabilities(source, joined, coupling, path, conditioning, prediction)
    objective = objective or FlowMatching(UniformTimes(), UniformWeights())
    shape = objective.shown(conditioning.shape(source, target), prediction)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(randomness.number("initial weights"))
        made = network(event_shape=source.event_shape, condition=shape, heads=prediction.heads)
    field = Learned(made, path, prediction, conditioning, able, shape.step)
    module = FlowModule(source, target, field, objective, optimizer, scheduler, randomness, ema_decay)
    return module, data(joint=joined, coupling=coupling, randomness=randomness)
