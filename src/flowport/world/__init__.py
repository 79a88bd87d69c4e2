"""Worlds in which the tilt of a reward is known: what fine-tuning methods are measured in."""

from flowport.world.base import World
from flowport.world.bridge import Bridge
from flowport.world.law import Law
from flowport.world.noise import FromNoise

__all__ = ["Bridge", "FromNoise", "Law", "World"]
