"""Problems with an exact base flow and an exact reward-tilted law, on which fine-tuning methods are measured."""

from flowport.problem.base import Problem
from flowport.problem.bridge import BridgeProblem
from flowport.problem.law import MixtureLaw
from flowport.problem.noise import NoiseProblem

__all__ = ["BridgeProblem", "MixtureLaw", "NoiseProblem", "Problem"]
