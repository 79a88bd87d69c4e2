"""Training objectives: the loss by which a flow is trained. Fine-tuning methods are in
``flowport.finetuning.method``."""

from flowport.objective.base import Loss, Objective
from flowport.objective.flow_matching import FlowMatching
from flowport.objective.shortcut import ShortcutObjective

__all__ = ["FlowMatching", "Loss", "Objective", "ShortcutObjective"]
