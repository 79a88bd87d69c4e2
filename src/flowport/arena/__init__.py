"""Fine-tuning methods measured in worlds where the true tilt is known."""

from flowport.arena.contest import contest
from flowport.arena.judge import exact, judge

__all__ = ["contest", "exact", "judge"]
