"""Comparison of fine-tuning methods on problems whose tilted law is known."""

from flowport.problem.arena.duel import duel
from flowport.problem.arena.frontier_plot import draw, results
from flowport.problem.arena.score import exact, score
from flowport.problem.arena.training_free import training_free

__all__ = ["draw", "duel", "exact", "results", "score", "training_free"]
