"""What fine-tuning may change: a network beside the base, the base's own weights, or low-rank additions to them."""

from flowport.update.control import Control
from flowport.update.full import Full
from flowport.update.low_rank import LowRank

__all__ = ["Control", "Full", "LowRank"]
