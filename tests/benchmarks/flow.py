"""A flow in the plane from flowport's parts, as a run's config would join them."""

from collections.abc import Callable
from typing import Any

import torch

from flowport.capabilities import capabilities
from flowport.conditioning import Conditioning, Unconditional
from flowport.coupling import Coupling
from flowport.distribution import Distribution
from flowport.field import Learned
from flowport.joint import Product
from flowport.module import FlowModule
from flowport.network import MLP
from flowport.objective import FlowMatching
from flowport.path import Linear
from flowport.prediction import Velocity
from flowport.randomness import Randomness
from flowport.time_sampler import Uniform as UniformTimes
from flowport.weighting import Uniform as UniformWeights


def flow_module(source: Distribution, target: Distribution, coupling: Coupling, randomness: Randomness,
                optimizer: Callable[..., torch.optim.Optimizer], scheduler: Callable[..., Any],
                conditioning: Conditioning | None = None, width: int = 64) -> FlowModule:  # fmt: skip
    """The linear path, velocity prediction and an MLP, with weights drawn from the seed."""
    torch.manual_seed(randomness.number("initial weights") % 2**32)
    path, prediction, told = Linear(), Velocity(), conditioning or Unconditional()
    able = capabilities(source, Product(source, target), coupling, path, told, prediction)
    network = MLP(source.event_shape, told.shape(source, target), width=width)
    field = Learned(network, path, prediction, told, able)
    objective = FlowMatching(UniformTimes(), UniformWeights())
    return FlowModule(source, target, field, objective, optimizer, scheduler, randomness)
