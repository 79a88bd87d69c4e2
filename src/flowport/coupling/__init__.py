"""Couplings π(x0, x1): how the source and target points of a batch are paired."""

from flowport.coupling.aligned import AlignedCoupling
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.class_conditional import ClassConditionalCoupling
from flowport.coupling.condition_aware import ConditionAwareCoupling
from flowport.coupling.exact import ExactCoupling
from flowport.coupling.independent import IndependentCoupling
from flowport.coupling.partial import PartialCoupling
from flowport.coupling.sinkhorn import SinkhornCoupling
from flowport.coupling.unbalanced import UnbalancedCoupling

__all__ = [
    "AlignedCoupling",
    "ClassConditionalCoupling",
    "ConditionAwareCoupling",
    "Coupling",
    "ExactCoupling",
    "IndependentCoupling",
    "PartialCoupling",
    "Plan",
    "SinkhornCoupling",
    "UnbalancedCoupling",
]
