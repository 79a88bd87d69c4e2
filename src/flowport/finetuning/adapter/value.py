"""Value network: the log value function, whose gradient is the control."""

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
from flowport.network.pieces import in_pieces
from flowport.tensors import scaled
from flowport.types import Condition, ConditionShape, EventShape


class SharedField:
    """A reference to a field that is not copied with its owner and is not one of its submodules.

    Args:
        field: The field.
    """

    def __init__(self, field: Field) -> None:
        self.field = field

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedField":
        return self


class ValueAdapter(Adapter):
    """Log value log h_t(x)/h_0 = β/(n² + β²) · φ(E_base[x1 | x_t = x], t, condition), and the control G = ∇_x of it.

    φ is the mean of a network's output over coordinates, the network starting at zero. G is a gradient field, as
    ∇ log h is, pulled back through the base's denoiser, as in guidance by a reward of the predicted end point (Chung et
    al. 2022). From noise, where β(0) = 0 and n(0) = 1, the log value vanishes at t = 0, since the start is
    independent of the result. Every evaluation needs a backward pass through the base. Any method can train it;
    ``ValueMatching`` regresses the value itself.

    Args:
        base: The frozen base, whose denoiser is used; it is shared, not copied.
        event_shape: Shape D of one point.
        condition: What the network must accept beside x and t.
        network: Partial of a network.

    Raises:
        FlowportError: For a network whose output a zero last layer does not make zero.

    References:
        Chung, Kim, Mccann, Klasky and Ye 2022, "Diffusion posterior sampling for general noisy inverse problems",
            arXiv:2209.14687.
        Lu et al. 2023, "Contrastive energy prediction for exact energy-guided diffusion sampling in offline
            reinforcement learning", arXiv:2304.12824 (a learnt log value).
    """

    needs_base = False
    has_log_value = True
    differentiates = True

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
        """∇_x φ, (B, *D), differentiable in weights and x where gradients are enabled, in pieces as the network is."""
        # The graph of this derivative is that of all rows, so its pieces are taken here and not in the network's calls.
        return in_pieces(self._differentiated, self.network.piece_rows, x, t, condition, self.training)

    def _differentiated(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        differentiable = torch.is_grad_enabled()
        # Fused attention can be differentiated only once.
        kernel = sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext()
        with kernel, torch.inference_mode(False), torch.enable_grad():
            point = x if x.requires_grad else (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            cloned = condition.each(Tensor.clone)
            value = self._potential(point, t.clone(), cloned)
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=differentiable)
        return slope
