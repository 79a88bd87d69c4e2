"""What is minimised: flow matching trains a flow, the others tune a trained one towards a reward."""

from flowport.objective.adjoint_matching import AdjointMatching
from flowport.objective.base import Loss, Objective
from flowport.objective.draft import DRaFT
from flowport.objective.flow_matching import FlowMatching
from flowport.objective.path_weighted import PathWeighted
from flowport.objective.policy_gradient import PolicyGradient
from flowport.objective.refl import ReFL
from flowport.objective.reward_weighted import RewardWeighted
from flowport.objective.shortcut import Shortcut
from flowport.objective.tilt_matching import TiltMatching
from flowport.objective.tuning import Rollout, Tuning
from flowport.objective.value_matching import ValueMatching

__all__ = ["AdjointMatching", "DRaFT", "FlowMatching", "Loss", "Objective", "PathWeighted", "PolicyGradient", "ReFL",
           "RewardWeighted", "Rollout", "Shortcut", "TiltMatching", "Tuning", "ValueMatching"]  # fmt: skip
