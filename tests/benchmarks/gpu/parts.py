"""The parts of ``make gpu``: each prints its rows, in which every ratio is of one process."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from flowport.cost import SquaredEuclideanCost
from flowport.coupling import SinkhornCoupling
from flowport.network import replay
from flowport.run.build import Parts, build
from flowport.types import Pair, Sample
from tests.benchmarks.gpu.race import difference, flops, peak
from tests.benchmarks.gpu.training import ROOT, configured, synchronize, times

Row = dict[str, str | float | bool | None]
TRAINER = ["trainer=gpu"]
STEPS: dict[str, tuple[float, float]] = {
    "digits_to_mnist": (1.5, 0.5),
    "gaussian_to_mnist": (1.5, 0.5),
    "mnist_guided": (1.5, 0.5),
    "timbre_flute_to_brass": (0.0, 5.0),
    "solids_ellipsoid_to_torus": (0.0, 12.0),
    "eight_gaussians_to_moons": (0.0, 4.0),
}
"""Experiment -> (a, b): a step may take a times the graph replayed alone plus b milliseconds."""
WAITING = {
    "images": "gaussian_to_mnist",
    "clips": "timbre_flute_to_brass_independent",
    "clouds": "gaussian_to_solids_independent",
    "ink": "digits_to_silhouette_clouds",
    "plane": "gaussian_to_mixture",
}
"""Modality -> experiment."""


def row(what: str, value: float, unit: str, most: float | None = None, least: float | None = None) -> Row:
    """One figure with what is wanted of it."""
    wanted = "" if most is None and least is None else (f"≤ {most:.3g}" if most is not None else f"≥ {least:.3g}")
    met = None if not wanted else (most is None or value <= most) and (least is None or value >= least)
    return {"what": what, "value": value, "unit": unit, "wanted": wanted, "met": met}


def steps(name: str, trainer: list[str], window: int) -> list[Row]:
    """A step of an experiment: captured, its graph alone, and by single kernels."""
    parts, words = Parts(), [f"experiment={name}", *trainer]
    captured = times(configured(*words), parts, window=window, warm=window)
    single = times(configured(*words, "capture=false"), parts, window=window, warm=window)
    factor, offset = STEPS[name]
    most = factor * (captured.alone or 0.0) + offset
    rows = [row(f"{name}: step", captured.step, "ms", most=most), row(f"{name}: single kernels", single.step, "ms")]
    if captured.alone is not None:
        rows.append(row(f"{name}: graph alone", captured.alone, "ms"))
    return [*rows, row(f"{name}: single kernels over captured", single.step / captured.step, "×")]


def waiting(kind: str, trainer: list[str], window: int) -> list[Row]:
    """The share of a captured step that new batches add to one with a batch that is there already."""
    config, parts = configured(f"experiment={WAITING[kind]}", *trainer), Parts()
    pairs = [[times(config, parts, same=same, window=window, warm=window).step for same in (False, True)] for _ in "ab"]
    share = median(1 - same / new for new, same in pairs)
    return [row(f"{kind} ({WAITING[kind]}): share waiting", 100 * share, "%", most=3.0)]


def exact(trainer: list[str], window: int) -> list[Row]:
    """What exact transport of 256 images adds to a step."""
    words, parts = ["experiment=gaussian_to_mnist", "data.batch=256", "data.pool=1", *trainer], Parts()
    ratios = []
    for _ in "ab":
        plain, coupled = (
            times(configured(*words, f"coupling={kind}"), parts, window=window, warm=window).step
            for kind in ("independent", "exact")
        )
        ratios.append(coupled / plain)
    return [row("exact transport of 256 images adds", 100 * (median(ratios) - 1), "%", most=5.0)]


def sinkhorn(trainer: list[str], window: int) -> list[Row]:
    """Entropic transport of 8,192 points of 3,072 coordinates."""
    device = torch.device("cuda" if trainer == TRAINER else "cpu")
    n = 8192 if device.type == "cuda" else 64
    generator = torch.Generator(device).manual_seed(0)
    pair = Pair(*(Sample(torch.randn(n, 3072, generator=generator, device=device)) for _ in "ab"))
    coupling = SinkhornCoupling(cost=SquaredEuclideanCost())
    coupling(pair, generator)
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    coupling(pair, generator)
    synchronize(device)
    rows = [row(f"Sinkhorn, n = {n}, d = 3072", 1e3 * (time.perf_counter() - began), "ms")]
    if device.type == "cuda":
        rows.append(row(f"Sinkhorn, n = {n}: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB"))
    return rows


def sampling(trainer: list[str], window: int) -> list[Row]:
    """A translation by Heun's method, replayed and by single kernels."""
    run = build(configured("experiment=gaussian_to_mnist", "grid.steps=100", "solver=heun", *trainer))
    device = torch.device("cuda" if trainer == TRAINER else "cpu")
    field, kept = run.module.ema.to(device), replay.AFTER
    n = 64 if device.type == "cuda" else 2
    source, translator = run.module.source.to(device).sample(n, torch.Generator(device)), run.sampler.translator(field)
    found = {}
    for mode, after in (("single kernels", 10**9), ("replayed", kept)):
        replay.AFTER = after
        seconds = []
        for _ in range(3):
            synchronize(device)
            began = time.perf_counter()
            translator.forward(source, torch.Generator(device))
            synchronize(device)
            seconds.append(time.perf_counter() - began)
        found[mode] = min(seconds)
    replay.AFTER = kept
    rows = [row(f"translation of {n} digits, 200 evaluations, {mode}", value, "s") for mode, value in found.items()]
    return [*rows, row("translation: single kernels over replayed", found["single kernels"] / found["replayed"], "×")]


def tuning(trainer: list[str], window: int) -> list[Row]:
    """A step of fine-tuning, whose paths are replayed, and the same by single kernels."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        quick = ["evaluation_items=64", "trainer.max_steps=20", "metric=[sliced_wasserstein]"]
        command(["train", "experiment=gaussian_to_mixture", f"hydra.run.dir={base}", *quick, *trainer])
        found = {}
        for mode in ("true", "false"):
            words = [
                f"run={base}",
                "reward=quadratic",
                "reward.c=[1.0,-1.0]",
                f"capture={mode}",
                f"trainer.max_steps={2 * window}",
                *trainer,
            ]
            tuned = Path(folder) / mode
            command(["finetune", *words, f"hydra.run.dir={tuned}", "evaluation_items=64", "certified=64"])
            found[mode] = json.loads((tuned / "metrics.json").read_text())["train/step_ms"]
    return [
        row("fine-tuning: step", found["true"], "ms"),
        row("fine-tuning: single kernels over replayed", found["false"] / found["true"], "×"),
    ]


def job(trainer: list[str], window: int) -> list[Row]:
    """The default command."""
    with tempfile.TemporaryDirectory() as folder:
        few = [] if trainer == TRAINER else ["trainer.max_steps=5", "evaluation_items=32"]
        command(["train", *trainer, f"hydra.run.dir={folder}/run", *few])
        numbers = json.loads((Path(folder) / "run" / "metrics.json").read_text())
    return [
        row("default job: training", numbers["train/seconds"], "s", most=12.0),
        row("default job: test/fd", next(v for k, v in numbers.items() if k.startswith("test/fd")), ""),
    ]


def command(words: list[str]) -> None:
    name, *rest = words
    subprocess.run([sys.executable, f"launch/{name}.py", *rest], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def suite(marker: list[str], trainer: list[str], window: int) -> list[Row]:
    """Tests; the number of those that fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marker],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest did not run: {done.stdout.splitlines()[-1:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([*failed, *done.stdout.splitlines()[-1:]]), file=sys.stderr)
    return [row(f"tests that fail ({' '.join(marker)})", float(len(failed)), "", most=0.0)]


PARTS: dict[str, Callable[[list[str], int], list[Row]]] = {
    "gpu_tests": partial(suite, ["-m", "gpu"]),
    "all_tests": partial(suite, ["-n", "auto", "--dist", "worksteal"]),
    "default_job": job,
    **{f"step_{name}": partial(steps, name) for name in STEPS},
    **{f"waiting_{kind}": partial(waiting, kind) for kind in WAITING},
    "exact_transport": exact,
    "sinkhorn": sinkhorn,
    "sampling": sampling,
    "tuning": tuning,
}


def raced(side: str, steps: int, batch: int, seed: int = 0) -> dict[str, float]:
    """One side of the race in a process of its own."""
    words = [sys.executable, "-m", "tests.benchmarks.gpu.race", side, str(steps), str(batch), str(seed)]
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def race(ours: str, theirs: str, least: float, trainer: list[str], window: int) -> list[Row]:
    """Images a second of one side over those of torchcfm's loop, which runs before and after."""
    steps, batch = (2 * window, 128) if trainer == TRAINER else (4, 2)
    before, own, after = (raced(side, steps, batch) for side in (theirs, ours, theirs))
    peer = median([before["images"], after["images"]])
    rows = [
        row(f"{side}, batch {batch}", found["images"], "images/s") for side, found in ((theirs, before), (ours, own))
    ]
    rows.append(row(f"{ours} over {theirs}, batch {batch}", own["images"] / peer, "×", least=least))
    return rows


def large_batch(trainer: list[str], window: int) -> list[Row]:
    """Batch 512, and the share of the card's bf16 peak, as a product of two matrices reaches it."""
    on_gpu = trainer == TRAINER
    found = raced("bf16", 2 * window if on_gpu else 4, 512 if on_gpu else 2)
    rows = [row("bf16, batch 512", found["images"], "images/s", least=5700)]
    if on_gpu:
        device = torch.device("cuda")
        share = flops(512, device) / (found["ms"] / 1e3) / peak(device)
        rows.append(row("bf16, batch 512: share of the bf16 peak of a matrix product", 100 * share, "%"))
    return rows


def losses(trainer: list[str], window: int) -> list[Row]:
    """Mean loss of the last 100 of 500 steps against torchcfm's, from the same weights, paired by seed."""
    steps, batch, seeds = (500, 128, 3) if trainer == TRAINER else (4, 2, 2)
    found = {
        side: [raced(side, steps, batch, seed)["loss"] for seed in range(seeds)]
        for side in ("torchcfm", "plain", "bf16")
    }
    rows = []
    for side in ("plain", "bf16"):
        gap, error = difference(list(zip(found[side], found["torchcfm"], strict=True)))
        rows.append(row(f"loss of {side} against torchcfm's, {seeds} seeds: difference", abs(gap), "%", most=2.0))
        rows.append(row(f"loss of {side}: standard error of the difference", error, "%"))
    return rows


PARTS |= {
    "race_bf16": partial(race, "bf16", "torchcfm", 3.5),
    "race_bf16_exact": partial(race, "bf16_exact", "torchcfm_exact", 3.3),
    "race_float32": partial(race, "float32", "torchcfm", 1.3),
    "race_batch_512": large_batch,
    "race_loss": losses,
}
