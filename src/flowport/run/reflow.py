"""Reflow: a flow learns the pairs that a trained one made, so that its ways become straight."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.data.pairing import write_pairs
from flowport.errors import FlowportError
from flowport.finetuning.tilted_field import TiltedField
from flowport.run import experiment
from flowport.run.config_checks import check_kind
from flowport.run.reuse import OVERRIDES, PAIRS, restored
from flowport.run.run_folder import read_config
from flowport.sampling.translator import Translator
from flowport.types import Pair


def carried(translator: Translator, pair: Pair, generator: torch.Generator) -> Pair:
    """The source points of a pair beside their own translations, which bear the label that the flow was told.

    The ways of a flow that learns such pairs are not longer, on the mean, for any convex cost, and where they do not
    cross they are straight (Liu et al. 2022). Raises FlowportError for a sampler that draws noise: its results are no
    map.
    """
    if translator.solver.stochastic or translator.volatility.stochastic:
        raise FlowportError("reflow pairs every start with where an ODE takes it: use solver=heun and volatility=zero")
    source, label = pair.source, pair.target.label
    end = translator.forward(source, generator, label).end
    told = translator.field.conditioning.sampling(source, label).label
    return PAIRS["forward"](source, end, told)


def reflow(folder: Path, overrides: DictConfig, out: Path) -> dict[str, Any]:
    """``overrides.rounds`` rounds upon the trained run in ``folder``, the last of them in ``out``, those before in
    out/round_<k>: each a run like any other, with its pairs. Returns the numbers of the last.

    Raises FlowportError for a run whose sampler is no ODE, and whatever training and restoring refuse.
    """
    check_kind("rounds", overrides.rounds, int, 1)
    check_kind("pairs", overrides.pairs, int, 10)
    for k in range(1, overrides.rounds):
        place = out / f"round_{k}"
        place.mkdir(parents=True, exist_ok=True)
        _round(folder, overrides, place)
        folder = place
    return _round(folder, overrides, out)


def _round(folder: Path, overrides: DictConfig, out: Path) -> dict[str, Any]:
    """Store the pairs, then train upon them from the weights of the flow that made them."""
    base, record = restored(folder, overrides)
    module, device = base.module, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    randomness = module.randomness.under("pairs")
    drawn = base.data.placed(device).split("train").pairs(0, overrides.pairs, randomness)
    translator = base.evaluation.translator(module.to(device).ema)
    write_pairs(carried(translator, drawn, randomness.generator("noise", 0, device)), out / "pairs.safetensors")

    def begin(run: experiment.Run) -> dict[str, Any]:
        start = module.ema
        while isinstance(start, TiltedField):  # a tuned flow's change has no place in one network
            start = start.base
        for field in (run.module.field, run.module.ema):
            field.load_state_dict(start.state_dict())
        return record

    return experiment.train(_config(folder, overrides, record, out), out, before=begin)


def _config(folder: Path, overrides: DictConfig, record: dict[str, Any], out: Path) -> DictConfig:
    """The config of the run in ``folder``, but upon the pairs in ``out``."""
    config = read_config(folder)
    for key in OVERRIDES:
        if overrides.get(key) is not None:
            config[key] = overrides[key]
    if overrides.steps is not None:
        config.trainer.max_steps = overrides.steps
    path = str(out / "pairs.safetensors")
    config.pairing = {"_target_": "flowport.data.pairing.StoredPairing", "_partial_": True, "path": path}
    config.coupling = {"_target_": "flowport.coupling.IndependentCoupling"}
    config.stage = {"_target_": "flowport.run.stage.FlowStage"}
    config.guidance = {"_target_": "flowport.field.guidance.Unguided"}  # the pairs have it already
    config.data.repeat = 1
    config.pop("tuning", None)
    config.reflow = [*(config.get("reflow") or []), record]
    return config
