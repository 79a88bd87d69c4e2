"""Reward of decoded points, for a flow in latent space."""

from collections.abc import Mapping
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
        self.decoded_terms = {name: DecodedReward(term, modality) for name, term in reward.term_rewards.items()}

    @property
    def term_rewards(self) -> Mapping[str, Reward]:
        """The terms of the reward, of decoded points."""
        return self.decoded_terms

    @property
    def term_weights(self) -> Mapping[str, float]:
        """Their weights by name; 0 for one that is watched."""
        return self.reward.term_weights

    @property
    def latest_terms(self) -> Mapping[str, Tensor]:
        """The terms that the last ``forward`` has evaluated, each (B,), by name."""
        return self.reward.latest_terms

    def check(self, source: Distribution, target: Distribution) -> None:
        self.reward.check(source.observed(), target.observed())
        self.differentiable = self.reward.differentiable

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        source = None if condition.source is None else self.modality.observed(condition.source)
        return self.reward(self.modality.observed(x1), Condition(condition.label, source))
