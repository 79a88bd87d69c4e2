"""flowport against torchcfm on a finished sweep of plane distributions.

``make train ARGS="-m sweep=two_dimensions"``, then ``python -m tests.benchmarks.compare_two_dimensions <its folder>``.
For every job torchcfm's own matcher is trained by its own loop: same batches before coupling, same initial weights,
steps, optimiser, schedule and moving average, and the same evaluation of the averaged weights. sigma=0, because the
linear path adds no noise (``--sigma 0.1`` is torchcfm's classic). Seeds are paired, so differences are paired too.
"""

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import geometric_mean, mean

import torch
from omegaconf import OmegaConf

from tests.benchmarks.table import OUTPUTS, Cell, load, mean_and_error, report, standard_error

METRICS = ("w2", "w2_floor", "path_energy", "npe")
Key = tuple[str, str, int]
Numbers = dict[str, float]


def overrides(job: Path) -> dict[str, str]:
    return dict(word.split("=", 1) for word in OmegaConf.load(job / ".hydra" / "overrides.yaml") if "=" in word)


def jobs(folder: Path) -> dict[Key, Path]:
    """(experiment, coupling, seed) of every finished job of a multirun folder."""
    found = {}
    for metrics in sorted(folder.glob("*/metrics.json")):
        words = overrides(metrics.parent)
        found[words["experiment"], words["coupling"], int(words["seed"])] = metrics.parent
    if not found:
        raise SystemExit(f"{folder} holds no finished job (<number>/metrics.json)")
    return found


def references(job: Path) -> dict[str, float]:
    """W2² between source and target, by which both sides' path energies are normalised: flowport's, and a finer one."""
    from flowport.evaluation.evaluator import reference_cost
    from flowport.run.build import build
    from tests.benchmarks.reference import squared_distance

    run = build(OmegaConf.load(job / ".hydra" / "config.yaml"))
    source, target = run.module.source, run.module.target
    return {"npe": reference_cost(source, target), "npe, fine": squared_distance(source, target)}


def theirs(job: Path, coupling: str, sigma: float) -> tuple[Numbers, Numbers]:
    """torchcfm's numbers, by averaged and by last weights."""
    from flowport.run.build import build
    from tests.benchmarks.torchcfm_loop import train

    torch.set_num_threads(1)
    config = OmegaConf.load(job / ".hydra" / "config.yaml")
    run = build(config)
    train(run.module, run.data.train, coupling, config.trainer.max_steps, sigma)
    results = []
    for field in (run.module.ema, run.module.field):
        outcome = run.evaluation.outcome(field, run.module.source, run.module.target, run.module.randomness, "test")
        results.append({k: v for k, v in run.evaluation.measure(outcome).items() if k in METRICS})
    return results[0], results[1]


def kept(job: Path, key: Key, sigma: float) -> tuple[Numbers, Numbers]:
    """``theirs``, computed once for a job's config and kept in outputs/benchmarks/torchcfm."""
    path = OUTPUTS / "torchcfm" / f"{job.parent.name}_{'_'.join(map(str, key))}_{sigma}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(theirs(job, key[1], sigma)))
    averaged, last = json.loads(path.read_text())
    print(f"torchcfm {key}: w2 {averaged['w2']:.4f}, path energy {averaged['path_energy']:.4f}", flush=True)
    return averaged, last


def compare(ours: list[float], other: list[float]) -> dict[str, Cell]:
    gaps = [a - b for a, b in zip(ours, other, strict=True)]
    error = standard_error(gaps)
    return {
        "flowport": mean_and_error(ours),
        "torchcfm": mean_and_error(other),
        "difference": f"{mean(gaps):+.4f} ± {error:.4f}",
        "in standard errors": round(mean(gaps) / error, 2) if error > 0 else math.nan,
        "ratio": round(mean(ours) / mean(other), 3),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="multirun folder of sweep=two_dimensions")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sigma", type=float, default=0.0)
    options = parser.parse_args(arguments)
    found = jobs(options.folder)
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        waiting = {key: pool.submit(kept, job, key, options.sigma) for key, job in found.items()}
        their = {key: future.result() for key, future in waiting.items()}
    costs = {name: references(next(job for key, job in found.items() if key[0] == name)) for name, _, _ in found}
    rows: list[dict[str, Cell]] = []
    ratios: dict[tuple[str, str], list[float]] = {}
    for experiment, coupling in dict.fromkeys(key[:2] for key in found):
        keys = sorted(key for key in found if key[:2] == (experiment, coupling))
        told_by_us = [json.loads((found[key] / "metrics.json").read_text()) for key in keys]
        energies = [m["test/path_energy"] for m in told_by_us], [their[k][0]["path_energy"] for k in keys]
        floor = mean(m["test/w2_floor"] for m in told_by_us)
        sides = {("w2", f"floor {floor:.3f}"): ([m["test/w2"] for m in told_by_us], [their[k][0]["w2"] for k in keys])}
        for name, cost in costs[experiment].items():
            sides[name, f"W2² {cost:.3f}"] = tuple([abs(e - cost) / cost for e in side] for side in energies)
        for (metric, beside), (ours, other) in sides.items():
            row = compare(ours, other)
            rows.append(
                {
                    "pair": experiment,
                    "coupling": coupling,
                    "metric": metric,
                    "beside": beside,
                    "seeds": len(keys),
                    **row,
                }
            )
            ratios.setdefault((coupling, metric), []).append(mean(ours) / mean(other))
    note = f"mean ± standard error over seeds, both sides' averaged weights, paired differences; {load()}"
    report("two_dimensions", "flowport and torchcfm in the plane", rows, note)
    total: list[dict[str, Cell]] = [
        {
            "coupling": c,
            "metric": m,
            "pairs": len(v),
            "geometric mean of flowport/torchcfm": round(geometric_mean(v), 3),
        }
        for (c, m), v in ratios.items()
    ]
    report("two_dimensions_ratios", "Over all pairs", total)


if __name__ == "__main__":
    main()
