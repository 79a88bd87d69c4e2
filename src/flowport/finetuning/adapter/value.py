"""The logarithm of the value function, whose gradient is the tilt."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.adapter.zero_init import output, zero_initialised
from flowport.network.base import Network
from flowport.tensors import scaled
from flowport.types import Condition, ConditionShape, EventShape


class SharedField:
    """A field that copies of an adapter share."""

    def __init__(self, field: Field) -> None:
        self.field = field

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedField":
        return self


class ValueAdapter(Adapter):
    """log h_t(x)/h_0 = β/(n² + β²) · φ(E_base[x1 | x_t = x], t, condition), φ the mean of a network's output, and
    G = ∇_x of that: a gradient, as ∇ log h is one, pulled back through the base's own denoiser, so that it points along
    what the base holds possible (as training-free guidance does, with a learnt reward of unfinished points). Nought at
    t = 0, where a start that is noise tells nothing of its result.

    It costs a backward pass of the base at every evaluation. Any method may learn it, and ``ValueMatching`` by
    regression on numbers in place of vectors. Raises FlowportError for a network that does not end in its last layer.
    """

    needs_base = False
    valued = True

    def __init__(
        self, base: Field, event_shape: EventShape, condition: ConditionShape, network: Callable[..., Network]
    ) -> None:
        super().__init__()
        self.network, self.shared = zero_initialised(network, event_shape, condition), SharedField(base)

    def log_value(self, x: Tensor, t: Tensor, condition: Condition, gains: TiltGains) -> Tensor:
        return gains.unit.to(x.dtype) * self._potential(x, t, condition)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return scaled(gains.unit_velocity, self._slope(x, t, condition))

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return scaled(gains.unit, self._slope(x, t, condition))

    def _potential(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with torch.set_grad_enabled(x.requires_grad):
            end = self.shared.field.endpoints(x, t, condition)[1]
        return output(self.network, end, t, condition).flatten(1).mean(1)

    def _slope(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """∇φ, whose own gradient goes on to the weights, and to x, where one is wanted."""
        wanted = torch.is_grad_enabled()
        kernel = sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()  # fused attention has one derivative only
        with kernel, torch.inference_mode(False), torch.enable_grad():
            point = x if x.requires_grad else (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            told = condition.each(Tensor.clone)
            value = self._potential(point, t.clone(), told)
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=wanted)
        return slope
