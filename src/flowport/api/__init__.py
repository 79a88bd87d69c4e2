"""Flows from Python: fit, translate, sample, fine-tune, save and load without a config.

Everything here composes the same parts that the configs name. Each part may be given as its config name
(``"linear"``), as its class, as an instance, or, for networks, paths and rewards, as a plain module or function.
"""

from flowport.api.fit import fit
from flowport.api.flow import Flow, load
from flowport.api.solve import couple, solve
from flowport.api.tuning import finetune
from flowport.training.compose import compose

__all__ = ["Flow", "compose", "couple", "finetune", "fit", "load", "solve"]
