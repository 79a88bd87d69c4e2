"""Measure a trained run on its held-out test split."""

import time
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.errors import FlowportError
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


def check_measures(run: Run, optimise: str | None) -> set[str]:
    """Check, before a run is trained or translated, that its metrics can be measured, ``optimise`` among them.

    Args:
        run: A run.
        optimise: The number that a sweeper minimises, or None.

    Returns:
        The names of the numbers of ``measure``, test/<metric>; empty where they are not known before.

    Raises:
        FlowportError: Where they cannot.
    """
    module = run.module
    names = run.evaluation.rehearse(module.ema, module.source, module.target, module.randomness)
    known = {f"test/{name}" for name in names} | {"test/nfe", "test/seconds"}
    wanted = str(optimise)
    if (names or not run.evaluation.metrics) and wanted.startswith("test/") and wanted not in known:
        raise FlowportError(f"optimise={wanted} is not measured in this run: choose one of {', '.join(sorted(known))}")
    return known - {"test/seconds"} if names else set()


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
    check_measures(run, overrides.get("optimise"))
    numbers = measure(run, out, device())
    numbers = {**record(folder), **numbers}
    out.write_metrics(numbers)
    return numbers
