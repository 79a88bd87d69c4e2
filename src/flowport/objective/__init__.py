"""Training objectives, the losses by which a flow is trained on pairs of points.

Reward fine-tuning has its own objectives, in ``flowport.finetuning.method``.
"""

from flowport.objective.base import Loss, Objective
from flowport.objective.flow_matching import FlowMatching
from flowport.objective.shortcut import ShortcutObjective

__all__ = ["FlowMatching", "Loss", "Objective", "ShortcutObjective"]
