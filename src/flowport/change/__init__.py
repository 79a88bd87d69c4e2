"""What fine-tuning may change: a network beside the base, a value whose gradient stands beside it, the base's own
weights, or low-rank additions to them."""

from flowport.change.control import Control
from flowport.change.full import Full
from flowport.change.low_rank import LowRank
from flowport.change.value import Value

__all__ = ["Control", "Full", "LowRank", "Value"]
