"""Fine-tuning methods measured in worlds where the true tilt is known."""

from flowport.arena.contest import contest
from flowport.arena.judge import exact, judge
from flowport.arena.picture import draw

__all__ = ["contest", "draw", "exact", "judge"]
