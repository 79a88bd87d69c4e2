"""Vector fields with a meaning."""

from flowport.field.analytic import Analytic, JointMixture
from flowport.field.base import Field
from flowport.field.classifier_free import ClassifierFree
from flowport.field.guided import Guided
from flowport.field.learned import Learned
from flowport.field.tilted import Change, Tilted
from flowport.field.transported import Transported

__all__ = [
    "Analytic",
    "Change",
    "ClassifierFree",
    "Field",
    "Guided",
    "JointMixture",
    "Learned",
    "Tilted",
    "Transported",
]
