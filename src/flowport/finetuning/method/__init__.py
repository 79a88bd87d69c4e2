"""Fine-tuning methods, which move a trained flow towards its law tilted by a reward."""

from flowport.finetuning.method.adjoint_matching import AdjointMatching
from flowport.finetuning.method.advantage_weighted import AdvantageWeighted
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.method.base import FineTuningMethod, Rollout
from flowport.finetuning.method.diffusion_nft import DiffusionNFT
from flowport.finetuning.method.draft import DRaFT
from flowport.finetuning.method.path_weighted import PathWeighted
from flowport.finetuning.method.policy_gradient import PolicyGradient
from flowport.finetuning.method.refl import ReFL
from flowport.finetuning.method.reward_weighted import RewardWeighted
from flowport.finetuning.method.tilt_matching import TiltMatching
from flowport.finetuning.method.value_matching import ValueMatching

__all__ = [
    "AdjointMatching",
    "AdvantageWeighted",
    "AutoMethod",
    "DRaFT",
    "DiffusionNFT",
    "FineTuningMethod",
    "PathWeighted",
    "PolicyGradient",
    "ReFL",
    "RewardWeighted",
    "Rollout",
    "TiltMatching",
    "ValueMatching",
]
