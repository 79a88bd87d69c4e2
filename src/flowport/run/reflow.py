"""Reflow: train a flow on the pairs that a trained one made, so that its paths become straight.

References:
    Liu, Gong & Liu 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    arXiv:2209.03003.
"""

from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.data.pairing import write_pairs
from flowport.errors import FlowportError
from flowport.finetuning.tilted_field import TiltedField
from flowport.run.build import Parts, Run, checked_config
from flowport.run.config_checks import check_kind
from flowport.run.device import accelerator_of, device_of
from flowport.run.restore import OVERRIDES, record, restore
from flowport.run.run_folder import RunFolder, going_on
from flowport.run.train import train
from flowport.run.trainer_options import processes_of
from flowport.run.translate import PAIRS
from flowport.sampling.translator import Translator
from flowport.tensors import float32_products
from flowport.types import Pair


def carried(translator: Translator, pair: Pair, generator: torch.Generator) -> Pair:
    """The source points of a pair beside their own translations, with the label that conditioned the flow.

    A flow trained on such pairs has no larger expected transport cost for any convex cost, and straight paths where
    they do not cross (Liu et al. 2022, arXiv:2209.03003, Theorem 3.5).

    Args:
        translator: Of an ODE.
        pair: Source points, and the labels of the targets.
        generator: Not drawn from by an ODE.

    Raises:
        FlowportError: For a sampler that draws noise, whose results are no map.
    """
    if translator.solver.stochastic or translator.volatility.stochastic:
        raise FlowportError("reflow pairs every start with where an ODE takes it: use solver=heun and volatility=zero")
    source, label = pair.source, pair.target.label
    end = translator.forward(source, generator, label).end
    shown = translator.field.conditioning.sampling(source, label).label
    return PAIRS["forward"](source, end, shown)


def reflow(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    """``overrides.rounds`` rounds upon a trained run, each a run like any other, with its pairs.

    Rounds that an earlier, stopped command of the same config left in ``out`` are not made again.

    Args:
        folder: The trained run.
        overrides: The composed config of the command.
        out: Of the last round; those before it are in out/rounds/<number>.

    Returns:
        The numbers of the last round.

    Raises:
        FlowportError: For a run whose sampler is no ODE.
    """
    check_kind("rounds", overrides.rounds, int, 1)
    check_kind("pairs", overrides.pairs, int, 10)
    parts = Parts()
    for number in range(1, overrides.rounds):
        here = out.round(number)
        config = _config(folder, overrides, here)
        if here.holds(config):  # of this command, when it was stopped before
            if not here.finished:
                going_on(number, out, partial(train, config, here, True, parts=parts))
        else:
            going_on(number, out, partial(_round, folder, overrides, here, parts))
        folder = here
    return _round(folder, overrides, out, parts)


def _round(folder: RunFolder, overrides: DictConfig, out: RunFolder, parts: Parts) -> dict[str, Any]:
    """Store the pairs, then train upon them from the weights of the flow that made them."""
    base = restore(folder, overrides, parts)
    place = device_of(base.config.trainer, overrides)
    module, randomness = base.module, base.module.randomness.under("pairs")
    drawn = base.data.placed(torch.device("cpu")).split("train").pairs(0, overrides.pairs, randomness)
    translator = base.sampler.translator(module.to(place).ema)
    with float32_products(tf32=False):
        pairs = carried(translator, drawn.to(place), randomness.generator("noise"))
    write_pairs(pairs, out.create().pairs)

    def begin(run: Run) -> dict[str, Any]:
        start = module.ema
        while isinstance(start, TiltedField):  # the adapter of a tuned flow has no place in one network
            start = start.base
        for field in (run.module.field, run.module.ema):
            field.load_state_dict(start.state_dict())
        return record(folder)

    return train(_config(folder, overrides, out), out, parts=parts, before=begin)


def _config(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> DictConfig:
    """The config of the run in ``folder``, but upon the pairs in ``out``."""
    config = checked_config(folder)
    for key in (*OVERRIDES, "logger", "callback"):
        if overrides.get(key) is not None:
            config[key] = overrides[key]
    if overrides.steps is not None:
        config.trainer.max_steps = overrides.steps
    config.trainer.accelerator = accelerator_of(config.trainer, overrides, say=False)  # pairs said it
    if processes_of(config.trainer) > 1:  # the pairs and the weights to begin with are this process's
        config.trainer.devices = config.trainer.num_nodes = 1
    path = str(out.pairs)
    config.pairing = {"_target_": "flowport.data.pairing.StoredPairing", "_partial_": True, "path": path}
    config.coupling = {"_target_": "flowport.coupling.IndependentCoupling"}
    config.stage = {"_target_": "flowport.run.stage.FlowStage"}
    config.guidance = {"_target_": "flowport.field.guidance.Unguided"}  # the pairs have it already
    config.data.repeat = 1
    config.pop("tuning", None)
    config.reflow = [*(config.get("reflow") or []), record(folder)]
    return config
