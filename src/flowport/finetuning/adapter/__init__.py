"""Trainable parts of a tilted field: a control network, a value network, all weights, or low-rank updates of them."""

from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.adapter.control import ControlAdapter
from flowport.finetuning.adapter.full import FullAdapter
from flowport.finetuning.adapter.low_rank import LowRankAdapter
from flowport.finetuning.adapter.value import ValueAdapter

__all__ = ["Adapter", "ControlAdapter", "FullAdapter", "LowRankAdapter", "ValueAdapter"]
