"""Fine-tuning methods measured in problems where the true tilt is known."""

from flowport.problem.arena.duel import duel
from flowport.problem.arena.frontier_plot import draw, results
from flowport.problem.arena.score import exact, score

__all__ = ["draw", "duel", "exact", "results", "score"]
