"""Worlds in which the tilt of a reward is known: what fine-tuning methods are measured in."""

from flowport.problem.base import Problem
from flowport.problem.bridge import BridgeProblem
from flowport.problem.law import MixtureLaw
from flowport.problem.noise import NoiseProblem

__all__ = ["BridgeProblem", "MixtureLaw", "NoiseProblem", "Problem"]
