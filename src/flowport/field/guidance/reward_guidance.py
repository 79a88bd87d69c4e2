"""Training-free guidance: a field of a field and a reward."""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.prediction import VelocityPrediction
from flowport.prediction.base import MARGIN
from flowport.reward.base import Reward, own
from flowport.tensors import scaled
from flowport.types import Condition


class RewardGuidance(Field):
    """v + η_t λ ∇_x r(E[x1 | x_t = x]), with η = n(nβ̇ − ṅβ)/β as in ``Tilted`` and n the weight of the path's noise.

    The tilted flow has v + η ∇ log h; guidance puts the reward of the mean for log E e^{λr} (Chung et al. 2023, DPS):
    exact for linear rewards of Gaussians, biased otherwise, and never trained. Any solver and volatility serves it,
    at one more backward pass through the base for every evaluation.

    floor: η is that of max(t, floor). Where the source is the noise η grows as 1/t, which the Jacobian of a learnt
    base does not outweigh as an exact one does: the first time of the grid is a sensible floor.
    Raises FlowportError where the base has no score or the reward no gradient.
    """

    def __init__(self, base: Field, reward: Reward, strength: float = 1.0, floor: float = 0.0) -> None:
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("guidance")
        if not reward.differentiable:
            raise FlowportError(
                f"guidance needs the reward's gradient, which {reward.called} does not have: choose another"
            )
        if strength <= 0 or not 0 <= floor < 1:
            raise FlowportError(f"guidance needs strength > 0 and 0 ≤ floor < 1, not {strength} and {floor}")
        super().__init__(base.path, VelocityPrediction(), base.conditioning, base.capabilities)
        self.base, self.strength, self.floor = base, strength, floor
        self._reward = (reward,)  # in a tuple, so no submodule
        self.training = base.training  # a sampler puts modules back as it found them

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = own(x).requires_grad_()
            told = condition.each(torch.Tensor.clone)
            end = self.base.endpoints(point, t.clone() if t.is_inference() else t, told)[1]
            slope = self._reward[0].value_and_gradient(end, told)[1]
            (pull,) = torch.autograd.grad(end, point, slope.to(end))
        c = self.path.coefficients(self.path.clamp(t.clamp_min(self.floor)).clamp(MARGIN, 1 - MARGIN))
        gains = TiltGains(c, self.capabilities.role.amplitude(c))
        return self.base.velocity(x, t, condition) + scaled(self.strength * gains.eta, pull.to(x))
