"""Does a step wait for its data? ``make bench ARGS=bench_data`` (``ARGS="bench_data cuda"`` on a GPU, in bfloat16).

Per modality, batches of 32 into the network of its experiments: the share of a step spent waiting for the next batch,
drawn, augmented and encoded, from resident and from streamed data, beside torch's DataLoader with two worker processes,
one item at a time. Then what exact coupling of 256 images adds to their step, and the memory in which folders of files
are decoded.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean, median

import numpy as np
import soundfile
import torch
from PIL import Image as Picture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowport.coupling import Coupling, ExactCoupling, IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.placement import Placement, ResidentPlacement, StreamingPlacement
from flowport.data.prefetching import Batches
from flowport.data.stream import PairStream
from flowport.distribution import AudioFolder, CloudFolder, Gaussian, ImageFolder, Stored
from flowport.distribution import folder as cache
from flowport.modality import Cloud, Image, LogMel
from flowport.network import Network, PatchUNet, SetTransformer
from flowport.training.compose import compose
from flowport.types import Pair, Sample
from tests.benchmarks.table import Cell, load, report

BATCH, STEPS, WARM = 32, 67, 3  # 64 measured steps, of which one draws a block
SIZES = {"images": 100_000, "clips": 10_000, "clouds": 20_000}


def images(n: int) -> tuple[Stored, Callable[..., Network]]:
    raw = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return whole("images", raw, Image(shift=1.0, flip=True)), PatchUNet


def clips(n: int) -> tuple[Stored, Callable[..., Network]]:
    raw = torch.randint(-9999, 9999, (n, 8192), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    return whole("clips", raw, LogMel()), PatchUNet


def clouds(n: int) -> tuple[Stored, Callable[..., Network]]:
    raw = torch.randn(n, 1024, 3, generator=torch.Generator().manual_seed(0))
    return whole("clouds", raw, Cloud(128, rotate=True)), SetTransformer


def whole(name: str, raw: Tensor, modality: Image | LogMel | Cloud) -> Stored:
    parts = {part: torch.arange(len(raw)) for part in ("train", "validation")}
    return Stored(name, raw, None, modality, parts)


MODALITIES = {"images": images, "clips": clips, "clouds": clouds}


class Items(Dataset[Tensor]):
    """What most projects write: an item is read and encoded by itself."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored.raw)

    def __getitem__(self, k: int) -> Tensor:
        return self.stored.modality.encode(self.stored.raw[k : k + 1], torch.Generator().manual_seed(k))[0]


def plain(stored: Stored, device: torch.device) -> Iterator[Pair]:
    loader = DataLoader(
        Items(stored),
        BATCH,
        shuffle=True,
        num_workers=2,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn",
    )
    for x in loader:
        x = x.to(device, non_blocking=True)
        yield Pair(Sample(torch.randn_like(x)), Sample(x))


def ours(data: PairDataModule, placement: Placement, prefetch: int, device: torch.device) -> Iterator[Pair]:
    pairing = placement.place(data.pairing, device).split("train")
    data.train = PairStream(pairing, data.coupling, data.randomness.under("train"), data.batch)
    return iter(Batches(data.train.at, lambda: 0, prefetch, 1, device))


def waited(batches: Iterator[Pair], step: Callable[[Pair], None], device: torch.device) -> tuple[float, float]:
    """Milliseconds a step waits for its batch, and of the whole step: means, since few steps draw a block."""
    waits, wholes = [], []
    for k in range(STEPS):
        began = time.perf_counter()
        pair = next(batches)
        drawn = time.perf_counter()
        step(pair)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if k >= WARM:
            waits.append(1e3 * (drawn - began))
            wholes.append(1e3 * (time.perf_counter() - began))
    return mean(waits), mean(wholes)


def stepper(
    source: Gaussian,
    target: Stored,
    network: Callable[..., Network],
    device: torch.device,
    coupling: Coupling,
    batch: int,
) -> tuple[PairDataModule, Callable[[Pair], None]]:
    flow, data = compose(source, target, network=network, coupling=coupling, data=partial(PairDataModule, batch=batch))
    flow.to(device)
    optimizer = torch.optim.AdamW(flow.field.parameters(), 1e-3)
    generator = torch.Generator(device).manual_seed(0)

    def step(pair: Pair) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = flow.objective.loss(flow.field, pair, generator).mean
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return data, step


def waiting(kind: str, device: torch.device) -> list[dict[str, Cell]]:
    stored, network = MODALITIES[kind](SIZES[kind])
    data, step = stepper(
        Gaussian(event_shape=list(stored.event_shape)), stored, network, device, IndependentCoupling(), BATCH
    )
    ways: dict[str, Callable[[], Iterator[Pair]]] = {
        "resident": lambda: ours(data, ResidentPlacement(), 0, device),
        "resident, 2 ahead": lambda: ours(data, ResidentPlacement(), 2, device),
        "streaming, 2 ahead": lambda: ours(data, StreamingPlacement(), 2, device),
        "DataLoader, 2 workers": lambda: plain(stored, device),
    }
    rows: list[dict[str, Cell]] = []
    for way, batches in ways.items():
        wait, took = waited(batches(), step, device)
        rows.append({"data": kind, "way": way, "wait ms": wait, "step ms": took, "share waiting": f"{wait / took:.2%}"})
    return rows


def coupled(device: torch.device, repeats: int = 3) -> list[dict[str, Cell]]:
    """What coupling 256 images adds: medians over interleaved repeats."""
    raw = torch.randint(256, (5000, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target, source = whole("images", raw, Image()), Gaussian(event_shape=[1, 16, 16])
    ways: dict[str, tuple[Coupling, int]] = {
        "independent": (IndependentCoupling(), 0),
        "exact": (ExactCoupling(), 0),
        "exact, 2 ahead": (ExactCoupling(), 2),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (coupling, prefetch) in ways.items():
            data, step = stepper(source, target, PatchUNet, device, coupling, 256)
            took[way].append(waited(ours(data, ResidentPlacement(), prefetch, device), step, device)[1])
    base = took["independent"]
    return [
        {
            "coupling of 256 images": way,
            "step ms": median(v),
            "over independent": f"{median(a / b for a, b in zip(v, base, strict=True)):.3f}",
        }
        for way, v in took.items()
    ]


def write_files(kind: str, folder: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    for k in range(SIZES[kind]):
        if kind == "images":
            Picture.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                folder / f"{k}.png", compress_level=1
            )
        elif kind == "clips":
            soundfile.write(folder / f"{k}.wav", rng.integers(-9999, 9999, 8192, dtype=np.int16), 8000)
        else:
            np.save(folder / f"{k}.npy", rng.normal(size=(1024, 3)).astype(np.float32))


FOLDERS: dict[str, Callable[[str], Stored]] = {"images": ImageFolder, "clips": AudioFolder, "clouds": CloudFolder}


def peak() -> float:
    """Most megabytes that this process has held (Linux). getrusage would also count its parent's before the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def decode(kind: str, folder: str) -> None:
    """In a process of its own: prints megabytes before, at the peak and of the data, and seconds."""
    cache.CACHE = Path(folder).parent / "cache"
    before, began = peak(), time.perf_counter()
    stored = FOLDERS[kind](folder)
    print(before, peak(), stored.stored_bytes() / 2**20, time.perf_counter() - began)


def decoding(kind: str) -> dict[str, Cell]:
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "files"
        files.mkdir()
        write_files(kind, files)
        call = [sys.executable, "-m", "tests.benchmarks.bench_data", "decode", kind, str(files)]
        outputs = [subprocess.run(call, check=True, capture_output=True, text=True).stdout.split() for _ in range(2)]
    (before, most, size, took), (_, _, _, again) = ([float(v) for v in words] for words in outputs)
    return {
        "files": f"{SIZES[kind]:,} {kind}",
        "data MB": size,
        "peak over start, MB": most - before,
        "over data": (most - before) / size,
        "decoded in s": took,
        "from the cache in s": again,
    }


def main(words: list[str]) -> None:
    if words[:1] == ["decode"]:
        decode(words[1], words[2])
        return
    device = torch.device(words[0] if words else "cpu")
    report(
        "data_waiting",
        f"Waiting for data on {device}",
        [row for kind in SIZES for row in waiting(kind, device)],
        load(),
    )
    report("data_coupling", f"Exact coupling of 256 images on {device}", coupled(device), load())
    report("data_decoding", "Decoding folders", [decoding(kind) for kind in SIZES], load())


if __name__ == "__main__":
    main(sys.argv[1:])
