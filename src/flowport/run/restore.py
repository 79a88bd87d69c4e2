"""Restore a trained run from its folder, under overrides of how it is sampled and measured."""

from collections.abc import Callable
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowport.data.remembered import recalled
from flowport.errors import FlowportError
from flowport.field import PathTransformedField
from flowport.run.build import Parts, Run, build, check, checked_config, flow_of, load_field, make
from flowport.run.config_checks import check_values
from flowport.run.device import asked
from flowport.run.run_folder import RunFolder, check_fits, read_json
from flowport.training.finetune_module import tilted

OVERRIDES = ("solver", "grid", "volatility", "guidance", "reward", "metric", "evaluation_items", "seed", "threads")
"""Keys of evaluate, translate, likelihood and reflow that replace the run's own."""


def restore(
    folder: RunFolder, overrides: DictConfig | None = None, parts: Parts | None = None, data: bool = True
) -> Run:
    """A trained run with its last weights; runs no code of the folder's.

    Args:
        folder: The run's.
        overrides: Those of ``OVERRIDES`` that are not null replace the run's own. ``weights``: ema or raw. ``path``:
            another path of the same flow.
        parts: What other runs of the same command have built.
        data: Whether its data are read. Without them, the run translates, but measures and trains nothing.

    Raises:
        FlowportError: For what is missing, damaged or of another shape, for weights that are neither ema nor raw, and
            for another path where one of the two is a bridge.
    """
    overrides = OmegaConf.create({"weights": "ema"}) if overrides is None else overrides
    if overrides.weights not in ("ema", "raw"):
        raise FlowportError(f"weights={overrides.weights} is unknown: use weights=ema or weights=raw")
    asked(overrides)  # refused now where it is not there
    config = checked_config(folder)
    for key in OVERRIDES:
        if overrides.get(key) is not None:
            config[key] = overrides[key]
    if not data and folder.sides.exists():
        run = _built(folder, lambda: _without_data(config, folder, overrides.weights))
    else:
        state = folder.read_checkpoint()["state_dict"]
        run = _built(folder, lambda: build(config, parts))
        check_fits(run.module, state, folder.checkpoint)
        run.module.load_state_dict(state)
        if overrides.weights == "raw":
            run.module.ema = run.module.field
    if overrides.get("path") is not None:
        check_values(OmegaConf.create({"path": overrides.path}))
        run.module.ema = PathTransformedField(run.module.ema, make(overrides.path))
    return run


def _built(folder: RunFolder, build: Callable[[], Run]) -> Run:
    try:
        return build()
    except (InstantiationException, OmegaConfBaseException, MemoryError, OverflowError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, FlowportError):
            cause = cause.__cause__
        reason = str(cause or error).strip().splitlines() or [type(error).__name__]
        raise FlowportError(f"run={folder} cannot be built: {reason[0]}") from None


def _without_data(config: DictConfig, folder: RunFolder, weights: str) -> Run:
    """The flow of a run between the sides that it remembers."""
    parts = Parts(remembered=recalled(read_json(folder.sides)))
    check(config)
    if config.get("threads") is not None:
        torch.set_num_threads(config.threads)
    flow, data, facts = flow_of(config, parts)
    field = flow.ema
    for entry in config.get("tuning") or []:
        field = tilted(field, make(entry.adapter), flow.source, flow.target)
    load_field(field, folder, weights)
    if flow.codec is not None:
        state = folder.read_checkpoint()["state_dict"]
        own = {name.removeprefix("codec."): v for name, v in state.items() if name.startswith("codec.")}
        check_fits(flow.codec, own, folder.checkpoint)
        flow.codec.load_state_dict(own)
    flow.ema = field.eval().requires_grad_(False)
    return Run(config, flow, data, dict(facts), parts)


def record(folder: RunFolder) -> dict[str, Any]:
    """Which run's weights were used, for the numbers of a command.

    Args:
        folder: The run's.
    """
    return {"base": str(folder), "base/checkpoint": folder.digest}
