"""Guidance: what becomes of a trained field before it is sampled. A member takes a field and gives a field.

It never touches training: evaluation and translation read it, and a run may be sampled again under another.
"""

from collections.abc import Callable
from typing import final

from flowport.field import ClassifierFree, Field, Guided

Guidance = Callable[[Field], Field]

__all__ = ["ClassifierFree", "Guidance", "Guided", "Unguided"]


@final
class Unguided:
    """The field as it was trained."""

    def __call__(self, base: Field) -> Field:
        return base
