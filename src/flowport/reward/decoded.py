"""Reward of decoded points, for a flow in latent space."""

from typing import final

from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.modality.base import Modality
from flowport.reward.base import Reward
from flowport.types import Condition


@final
class DecodedReward(Reward):
    """Reward r(z) = r′(decode z) of latents z, with ∇r = (∂decode/∂z)ᵀ ∇r′ through the frozen decoder.

    The source of a condition is decoded, too, because both sides of a latent flow share one autoencoder.

    Args:
        reward: The reward r′ of decoded points.
        modality: Modality of the latents; its ``observed`` decodes.
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
