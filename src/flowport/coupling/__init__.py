"""Couplings: who goes with whom inside a batch."""

from flowport.coupling.aligned import Aligned
from flowport.coupling.base import Coupling, Matching
from flowport.coupling.class_conditional import ClassConditional
from flowport.coupling.condition_aware import ConditionAware
from flowport.coupling.exact import Exact
from flowport.coupling.independent import Independent
from flowport.coupling.partial import Partial
from flowport.coupling.sinkhorn import Sinkhorn
from flowport.coupling.unbalanced import Unbalanced

__all__ = [
    "Aligned",
    "ClassConditional",
    "ConditionAware",
    "Coupling",
    "Exact",
    "Independent",
    "Matching",
    "Partial",
    "Sinkhorn",
    "Unbalanced",
]
