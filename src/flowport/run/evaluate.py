"""Measure a trained run on its held-out test split."""

import logging
import time
from typing import Any

import torch
from omegaconf import DictConfig

from flowport.cache import write_atomically
from flowport.data.agreement import class_names
from flowport.data.pairing import Pairing
from flowport.errors import FlowportError
from flowport.evaluation.evaluator import evenly, gallery
from flowport.evaluation.held_out import partner_items
from flowport.evaluation.items import ItemTable, item_numbers, write_confusion
from flowport.evaluation.showcase import SHOWN_TIMES, shown_values, write_sounds
from flowport.metric.base import EvaluationResult
from flowport.modality.base import Modality
from flowport.run.build import Run
from flowport.run.config_checks import check_kind
from flowport.run.device import device_of
from flowport.run.restore import record, restore
from flowport.run.run_folder import RunFolder, write_json
from flowport.run.words import objectives

logger = logging.getLogger(__name__)


def measure(run: Run, folder: RunFolder, device: torch.device, pictures: bool = True) -> dict[str, float]:
    """test/<metric> of the averaged field on the test split; items.csv and pictures are written into ``folder``.

    Args:
        run: A trained run.
        folder: Where tables and pictures go.
        device: Where points are translated.
        pictures: Whether pictures are drawn.
    """
    module, pair = run.module.to(device), run.data.placed(device)
    source, target = pair.source, pair.target
    began = time.perf_counter()
    outcome = run.evaluation.outcome(module.ema, source, target, module.randomness, "test")
    measured = run.evaluation.measure(outcome)
    measured |= _write_items(run, outcome, measured, pair, folder, pictures)
    numbers = {f"test/{k}": v for k, v in measured.items()}
    numbers["test/nfe"] = outcome.nfe
    numbers["test/seconds"] = round(time.perf_counter() - began, 2)
    if pictures:
        gallery(outcome, target.modality, folder.gallery)
    return numbers


def _write_items(
    run: Run, outcome: EvaluationResult, measured: dict[str, float], pair: Pairing, folder: RunFolder, pictures: bool
) -> dict[str, float]:
    """The means over items with their errors; writes items.csv, the confusion of classes and pictures of examples."""
    try:
        table = run.evaluation.per_item(outcome, pair.source, pair.target)
        numbers = item_numbers(table, measured)
    except FlowportError as error:  # a training is not lost for a table
        logger.error("%s is left out: %s", folder.items.name, error)
        return {}
    text = table.as_csv()
    write_atomically(folder.items, lambda place: place.write_text(text, newline=""))
    absent = dict[str, list[str]]()
    for column, reason in table.absent.items():
        absent.setdefault(reason, []).append(column)
    for reason, columns in absent.items():
        logger.info("%s has no %s: %s", folder.items.name, ", ".join(columns), reason)
    counts = table.confusion()
    if counts is not None:
        picture = folder.confusion_picture if pictures else None
        write_confusion(counts, list(class_names(pair.target)), folder.confusion, picture)
    if pictures:
        _show_examples(table, outcome, pair, folder)
    return numbers


def _show_examples(table: ItemTable, outcome: EvaluationResult, pair: Pairing, folder: RunFolder) -> None:
    """Pictures of the same few items as they are before and after, and of their partners."""
    modality, chosen = pair.target.modality.surface(), table.examples()
    at = torch.tensor(chosen, device=outcome.result.device)
    shown = {"source": outcome.source.x[at], "translation": outcome.result[at]}
    target = pair.target.split("test")
    found = partner_items(pair.source.split("test"), target)
    if found is not None and outcome.source.id is not None:
        partner = found[outcome.source.id[at].cpu()]
        if bool((partner >= 0).all()):
            shown["partner"] = target.observed().draw(partner, None).x
    if "partner" not in shown and outcome.result.shape[1:] == outcome.target.x.shape[1:]:
        shown["target"] = outcome.target.x[: len(chosen)]
    for row, x in shown.items():
        modality.render({"": x.cpu()}, str(folder.example(row)))
    write_sounds(shown, modality, folder.show.parent)
    values = shown_values(shown, outcome, modality)
    if values:
        write_json(folder.show, values)
    if "plane" not in values:
        _draw_ways(outcome, at, pair.target.modality, folder)


def _draw_ways(outcome: EvaluationResult, at: torch.Tensor, modality: Modality, folder: RunFolder) -> None:
    """A picture of states of the trajectories of the items that are shown, one time a row."""
    steps = evenly(len(outcome.states) - 1, SHOWN_TIMES - 1).tolist()
    rows = {
        f"t = {float(outcome.times[k]):.2f}": modality.observed(outcome.states[k][at]).cpu()
        for k in [*steps, len(outcome.states) - 1]
    }
    if len({row.shape for row in rows.values()}) == 1:
        modality.surface().render(rows, str(folder.example("ways")))


def check_measures(run: Run, optimise: Any) -> set[str]:
    """Check, before a run is trained or translated, that its metrics can be measured, ``optimise`` among them.

    Args:
        run: A run.
        optimise: Name of the number that a sweeper optimises, several names, or None.

    Returns:
        The names of the numbers of ``measure``, test/<metric>; empty where they are not known before.

    Raises:
        FlowportError: Where they cannot.
    """
    module = run.module
    names = run.evaluation.rehearse(module.ema, module.source, module.target, module.randomness)
    known = {f"test/{name}" for name in names} | {"test/nfe", "test/seconds"}
    for wanted in objectives(optimise) if names or not run.evaluation.metrics else ():
        if wanted.startswith("test/") and wanted not in known:
            listed = ", ".join(sorted(known))
            raise FlowportError(f"optimise={wanted} is not measured in this run: choose one of {listed}")
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
    numbers = measure(run, out, device_of(run.config.trainer, overrides), bool(overrides.get("gallery", True)))
    numbers = {**record(folder), **numbers}
    out.write_metrics(numbers)
    return numbers
