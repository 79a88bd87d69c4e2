"""torchcfm's own 2-D training loop on flowport's batches, weights, optimiser and moving average."""

import numpy as np
import torch
from torch import nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
from torchcfm.models.models import MLP as TheirMLP

from flowport.data.stream import PairStream
from flowport.network import MLP
from flowport.training.flow_module import FlowModule

MATCHERS = {"independent": ConditionalFlowMatcher, "exact": ExactOptimalTransportConditionalFlowMatcher}


def linears(network: nn.Module) -> list[nn.Linear]:
    return [part for part in network.modules() if isinstance(part, nn.Linear)]


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Layer by layer: torchcfm's MLP and flowport's have the same linear maps under other names."""
    with torch.no_grad():
        for a, b in zip(linears(source), linears(target), strict=True):
            b.weight.copy_(a.weight)
            assert a.bias is not None and b.bias is not None
            b.bias.copy_(a.bias)


def train(module: FlowModule, stream: PairStream, coupling: str, steps: int, sigma: float = 0.0) -> None:
    """Train torchcfm's MLP from the initial weights of ``module`` for so many steps and leave the result in it: the
    last weights in module.field, their moving average in module.ema.

    Batches are those the stream's joint draws before any coupling; pairs, times and noise come from torchcfm and the
    global generators it uses. Optimiser, schedule and the decay of the average are the module's own.
    """
    assert isinstance(module.field.network, MLP)
    seed = module.randomness.seed
    np.random.seed(seed)  # noqa: NPY002 - torchcfm draws its pairs from it
    torch.manual_seed(seed)
    network, average = TheirMLP(dim=2, w=64, time_varying=True), TheirMLP(dim=2, w=64, time_varying=True)
    copy_weights(module.field.network, network)
    copy_weights(module.field.network, average)
    matcher = MATCHERS[coupling](sigma=sigma)
    optimizer = module.make_optimizer(network.parameters())
    scheduler = module.make_scheduler(optimizer, steps)
    kept, current = [p.detach() for p in average.parameters()], [p.detach() for p in network.parameters()]
    for step in range(steps):
        pair = stream.pairing.pairs(step * stream.batch, stream.batch, stream.randomness.under("joint"))
        optimizer.zero_grad()
        t, xt, ut = matcher.sample_location_and_conditional_flow(pair.source.x, pair.target.x)
        vt = network(torch.cat([xt, t[:, None]], dim=-1))
        loss = torch.mean((vt - ut) ** 2)
        loss.backward()
        optimizer.step()
        scheduler.step()
        decay = min(module.ema_decay, (2 + step) / (11 + step))
        torch._foreach_lerp_(kept, current, 1 - decay)
    copy_weights(network, module.field.network)
    copy_weights(average, module.ema.network)
