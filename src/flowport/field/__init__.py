"""Vector fields with a meaning."""

from flowport.field.analytic import Analytic, JointMixture
from flowport.field.base import Field
from flowport.field.learned import Learned

__all__ = ["Analytic", "Field", "JointMixture", "Learned"]
