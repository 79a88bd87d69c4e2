"""A reward of what is observed, for a flow that lives in latents."""

from typing import final

from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.modality.base import Modality
from flowport.reward.base import Reward
from flowport.types import Condition


@final
class DecodedReward(Reward):
    """r(z) = r′(decode z), ∇r = (∂decode/∂z)ᵀ ∇r′: the gradient passes through the frozen decoder.

    reward: r′, of points as metrics and pictures see them; modality: of the latents, whose ``observed`` decodes. The
    source of a condition is decoded too, since both sides of a latent flow share one autoencoder.
    """

    def __init__(self, reward: Reward, modality: Modality) -> None:
        super().__init__()
        self.reward, self.modality = reward, modality
        self.differentiable = reward.differentiable

    def check(self, source: Distribution, target: Distribution) -> None:
        self.reward.check(source.observed(), target.observed())

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        source = None if condition.source is None else self.modality.observed(condition.source)
        return self.reward(self.modality.observed(x1), Condition(condition.label, source))
