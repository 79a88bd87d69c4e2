"""Comparison of fine-tuning methods on problems whose tilted law is known."""

from flowport.problem.arena.duel import duel
from flowport.problem.arena.frontier_plot import draw, results
from flowport.problem.arena.score import exact, score

__all__ = ["draw", "duel", "exact", "results", "score"]
