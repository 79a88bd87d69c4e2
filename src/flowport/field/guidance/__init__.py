"""Guidance: modification of a trained field at sampling time, without training.

A guidance is a function from a field to a field. Evaluation and translation apply it, so one run can be sampled under
several guidances. To add one: write a field whose first constructor argument is ``base`` in a new module of this
folder, export it here, and add ``configs/guidance/<name>.yaml`` with ``_target_`` and ``_partial_: true``.
"""

from collections.abc import Callable
from typing import final

from flowport.field.base import Field
from flowport.field.guidance.classifier_free import ClassifierFreeGuidance
from flowport.field.guidance.reward_guidance import RewardGuidance

Guidance = Callable[[Field], Field]
"""A function from a trained field to the field that is sampled."""

__all__ = ["ClassifierFreeGuidance", "Guidance", "RewardGuidance", "Unguided"]


@final
class Unguided:
    """No guidance: the trained field itself."""

    def __call__(self, base: Field) -> Field:
        """Return the field unchanged.

        Args:
            base: The trained field.
        """
        return base
