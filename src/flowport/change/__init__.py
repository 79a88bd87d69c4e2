"""What fine-tuning may change: a network beside the base, the base's own weights, or low-rank additions to them."""

from flowport.change.control import Control
from flowport.change.full import Full
from flowport.change.low_rank import LowRank

__all__ = ["Control", "Full", "LowRank"]
