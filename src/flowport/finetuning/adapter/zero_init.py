"""Networks with a zero last layer, so that fine-tuning starts from the base itself.

References:
    Zhang, Rao and Agrawala 2023, "Adding conditional control to text-to-image diffusion models", arXiv:2302.05543 (zero
        initialisation of what is added to a frozen network).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.network.base import Network
from flowport.types import Condition, ConditionShape, EventShape


def zero_initialised(network: Callable[..., Network], event_shape: EventShape, condition: ConditionShape) -> Network:
    """Build a network of one head with its last layer set to zero, so that its output is 0.

    Args:
        network: Partial of a network.
        event_shape: Shape D of one point.
        condition: What the network must accept beside x and t.

    Raises:
        FlowportError: For a network whose output this does not make zero.
    """
    made = network(event_shape=event_shape, condition=condition, heads=1)
    owners = [m for m in made.modules() if next(m.parameters(recurse=False), None) is not None]
    for parameter in owners[-1].parameters(recurse=False):
        nn.init.zeros_(parameter)
    x, t = torch.ones(2, *event_shape), torch.full((2,), 0.5)
    with torch.no_grad():
        if bool(made(x, t, Condition(source=x if condition.source else None)).any()):
            raise FlowportError(
                f"adapter.network={type(made).__name__} does not end in its last layer: use adapter=full"
            )
    return made


def output(network: Network, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Network output network(x, t, condition) for points of any precision, (B, *D), in the precision of x.

    Args:
        network: The network.
        x: Points, (B, *D).
        t: Times, (B,).
        condition: Label and source, B rows.
    """
    kind = next(network.parameters()).dtype
    start = None if condition.source is None else condition.source.to(kind)
    return network(x.to(kind), t, Condition(condition.label, start)).to(x.dtype)
