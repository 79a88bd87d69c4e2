"""Fields: functions of (x, t, condition) that a prediction and a path turn into velocity, score and end points."""

from flowport.field.analytic import AnalyticField, JointMixture
from flowport.field.base import Field
from flowport.field.learned import LearnedField
from flowport.field.path_transformed import PathTransformedField

__all__ = [
    "AnalyticField",
    "Field",
    "JointMixture",
    "LearnedField",
    "PathTransformedField",
]
