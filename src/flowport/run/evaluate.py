"""Measure a trained run on its held-out test split."""

import time
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.evaluation.evaluator import gallery
from flowport.run.build import Run
from flowport.run.config_checks import check_kind
from flowport.run.restore import device, record, restore
from flowport.run.run_folder import RunFolder


def measure(run: Run, folder: RunFolder, device: torch.device) -> dict[str, float]:
    """test/<metric> of the averaged field on the test split; the gallery is written into ``folder``.

    Args:
        run: A trained run.
        folder: Where the gallery goes.
        device: Where points are translated.
    """
    module, pair = run.module.to(device), run.data.placed(device)
    source, target = pair.source, pair.target
    began = time.perf_counter()
    outcome = run.evaluation.outcome(module.ema, source, target, module.randomness, "test")
    numbers = {f"test/{k}": v for k, v in run.evaluation.measure(outcome).items()}
    numbers["test/nfe"] = outcome.nfe
    numbers["test/seconds"] = round(time.perf_counter() - began, 2)
    gallery(outcome, target.modality, folder.gallery)
    return numbers


def evaluate(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    """Measure a trained run with other samplers or metrics; writes its numbers and gallery into ``out``.

    Args:
        folder: The run's, which is only read.
        overrides: See ``restore``; ``nfe``: as many steps as cost at most so many evaluations of the field (and at
            least one step).
        out: Where the results go.
    """
    check_kind("nfe", overrides.get("nfe"), int | None, 1)
    run = restore(folder, overrides)
    if overrides.get("nfe") is not None:
        run.sampler.grid.steps = run.sampler.solver.steps(overrides.nfe)
    numbers = measure(run, out, device())
    numbers = {**record(folder), **numbers}
    out.write_metrics(numbers)
    return numbers
