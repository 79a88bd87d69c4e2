"""What fine-tuning may change: a network beside the base, a value whose gradient stands beside it, the base's own
weights, or low-rank additions to them."""

from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.adapter.control import ControlAdapter
from flowport.finetuning.adapter.full import FullAdapter
from flowport.finetuning.adapter.low_rank import LowRankAdapter
from flowport.finetuning.adapter.value import ValueAdapter

__all__ = ["Adapter", "ControlAdapter", "FullAdapter", "LowRankAdapter", "ValueAdapter"]
