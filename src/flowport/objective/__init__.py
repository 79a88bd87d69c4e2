"""What is minimised: flow matching trains a flow, the others tune a trained one towards a reward."""

from flowport.objective.adjoint_matching import AdjointMatching
from flowport.objective.base import Loss, Objective
from flowport.objective.flow_matching import FlowMatching
from flowport.objective.path_weighted import PathWeighted
from flowport.objective.tuning import Rollout, Tuning

__all__ = ["AdjointMatching", "FlowMatching", "Loss", "Objective", "PathWeighted", "Rollout", "Tuning"]
