"""Guidance: a trained field is replaced by another field before it is sampled, without training.

A member takes a field and returns a field. Evaluation and translation apply it, so a run may be sampled again under
another guidance.
"""

from collections.abc import Callable
from typing import final

from flowport.field.base import Field
from flowport.field.guidance.classifier_free import ClassifierFreeGuidance
from flowport.field.guidance.reward_guidance import RewardGuidance

Guidance = Callable[[Field], Field]

__all__ = ["ClassifierFreeGuidance", "Guidance", "RewardGuidance", "Unguided"]


@final
class Unguided:
    """The trained field itself."""

    def __call__(self, base: Field) -> Field:
        """Return ``base`` unchanged."""
        return base
