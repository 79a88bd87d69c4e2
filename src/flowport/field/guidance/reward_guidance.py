"""Training-free reward guidance by the gradient of the reward at the expected end point."""

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
    """Reward guidance, v + η(t) λ ∇_x r(E[x1 | x_t = x]) with η = n(nβ̇ − ṅβ)/β and n the weight of the path's noise.

    The flow of the law tilted by e^{λ r} has v + η ∇ log h with h_t(x) = E[e^{λ r(X1)} | X_t = x]. Guidance replaces
    log h by λ r(E[x1 | x_t]), which is exact for linear rewards of Gaussians (up to a constant in x) and biased
    otherwise. Every solver and volatility can be used; each evaluation costs a second pass and a backward pass through
    the base.

    Args:
        base: A field with a score.
        reward: A differentiable reward r(x1, condition), in nats.
        strength: λ > 0.
        floor: η is evaluated at max(t, floor), in [0, 1). Where the source is the noise η grows as 1/t; the Jacobian
            of an exact base compensates this, that of a learned base does not. The first time of the grid is a
            sensible floor.

    Raises:
        FlowportError: For a base without a score or a guaranteed tilt, a reward without a gradient, and a strength or
            floor out of range.

    References:
        Chung et al. 2022, "Diffusion posterior sampling for general noisy inverse problems", arXiv:2209.14687.
        Domingo-Enrich et al. 2024, "Adjoint matching: fine-tuning flow and diffusion generative models with memoryless
        stochastic optimal control", arXiv:2409.08861 (the tilted flow).
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
        self._reward = (reward,)  # in a tuple, so that it is not a submodule
        self.training = base.training  # a sampler restores the mode that a module had

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = own(x).requires_grad_()
            given = condition.each(torch.Tensor.clone)
            end = self.base.endpoints(point, t.clone() if t.is_inference() else t, given)[1]
            slope = self._reward[0].value_and_gradient(end, given)[1]
            (pull,) = torch.autograd.grad(end, point, slope.to(end))
        c = self.path.coefficients(self.path.clamp(t.clamp_min(self.floor)).clamp(MARGIN, 1 - MARGIN))
        gains = TiltGains(c, self.capabilities.role.amplitude(c))
        return self.base.velocity(x, t, condition) + scaled(self.strength * gains.eta, pull.to(x))
