"""torchcfm's U-Net on pictures of CIFAR's size: torchcfm's own loop against flowport in the Trainer.

One side a process: ``python -m tests.benchmarks.gpu.race <side> <steps> <batch> <seed>`` prints its figures as JSON.
Both sides use one architecture (35.7 M weights), Adam at 2e-4, a clip of 1, dropout .1 and a moving average, with TF32
in float32. torchcfm's side is the loop that its users write: a DataLoader with four workers, float32, single kernels.
"""

import copy
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher

from flowport.network import UNet
from flowport.network.adm_unet import from_torchcfm
from flowport.run.build import Parts, flow_of
from flowport.types import ConditionShape
from tests.benchmarks.gpu.training import Windows, configured, synchronize

SIDES = {
    "torchcfm": [],
    "torchcfm_exact": [],
    "float32": ["trainer.precision=32-true", "network.compile=true"],
    "bf16": ["trainer.precision=bf16-mixed", "network.compile=true"],
    "bf16_exact": ["trainer.precision=bf16-mixed", "network.compile=true", "coupling=exact"],
    "plain": ["trainer.precision=32-true"],
}
"""Side -> words of its config; the first two are torchcfm's loop, ``plain`` is flowport without compilation."""
RATE, DECAY, CLIP, PRODUCT = 2e-4, 0.9999, 1.0, 8192


def sizes(device: torch.device) -> dict[str, object]:
    small = device.type == "cpu"
    return {
        "width": 32 if small else 128,
        "multipliers": [1, 2] if small else [1, 2, 2, 2],
        "residual_blocks": 1 if small else 2,
        "attention": [16],
        "dropout": 0.1,
    }


def pictures(n: int) -> Tensor:
    """Smooth random pictures in [−1, 1], (n, 3, 32, 32): colours that vary over a quarter of the picture."""
    coarse = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=32, mode="bicubic").tanh()


def architecture(device: torch.device, seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet((3, 32, 32), ConditionShape(), **sizes(device))  # type: ignore[arg-type]


def theirs(exact: bool, steps: int, batch: int, seed: int, device: torch.device) -> dict[str, object]:
    """torchcfm's loop."""
    network = architecture(device, seed).net.to(device)
    average = copy.deepcopy(network)
    matcher = (ExactOptimalTransportConditionalFlowMatcher if exact else ConditionalFlowMatcher)(sigma=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    data = TensorDataset(pictures(10_000))
    loader = DataLoader(data, batch, shuffle=True, num_workers=4, drop_last=True, multiprocessing_context="spawn")

    def forever() -> Iterator[Tensor]:
        while True:
            yield from (x for (x,) in loader)

    losses, marks, batches = [], [], forever()
    network.train()
    for step in range(steps):
        if step >= steps // 2 and (step - steps // 2) % max(1, steps // 10) == 0:
            synchronize(device)
            marks.append(time.perf_counter())
        optimizer.zero_grad()
        x1 = next(batches).to(device)
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((network(t, xt) - ut) ** 2)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.mul_(DECAY).add_(new, alpha=1 - DECAY)
        losses.append(loss.detach())
    synchronize(device)
    took = [1e3 * (b - a) / max(1, steps // 10) for a, b in zip(marks, marks[1:], strict=False)]
    return figures(sorted(took)[len(took) // 2], losses, batch, device)


def ours(words: list[str], steps: int, batch: int, seed: int, device: torch.device) -> dict[str, object]:
    """flowport in the Trainer, from the same weights."""
    options = [f"network.{k}={v}".replace(" ", "") for k, v in sizes(device).items()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npy"
        np.save(file, pictures(10_000).numpy())
        config = configured(
            "experiment=none",
            "distribution@source=gaussian",
            "source.event_shape=[3,32,32]",
            "distribution@target=tensor_file",
            f"target.path={file}",
            "coupling=independent",
            "network=adm_unet",
            *options,
            f"optimizer.lr={RATE}",
            f"ema_decay={DECAY}",
            f"data.batch={batch}",
            f"seed={seed}",
            f"trainer={'gpu' if device.type == 'cuda' else 'cpu'}",
            *words,
        )
        flow, data, _ = flow_of(config, Parts())
    state = from_torchcfm(architecture(device, seed).net.state_dict())
    for part in (flow.field, flow.ema):
        part.network.load_state_dict(state)  # type: ignore[union-attr]
    windows = Windows(steps // 2, max(1, steps // 10))
    lightning.Trainer(
        accelerator=config.trainer.accelerator,
        precision=config.trainer.precision,
        gradient_clip_val=CLIP,
        devices=1,
        max_steps=steps,
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        callbacks=[windows],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(flow, data)
    return figures(windows.step, windows.losses, batch, device)


def figures(ms: float, losses: list[Tensor], batch: int, device: torch.device) -> dict[str, object]:
    found: dict[str, object] = {"ms": ms, "images": 1e3 * batch / ms, "loss": float(torch.stack(losses[-100:]).mean())}
    if device.type == "cuda":
        found["gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def flops(batch: int, device: torch.device) -> float:
    """Floating-point operations of the products in a training step."""
    network, x = architecture(device, 0).net.to(device), torch.randn(batch, 3, 32, 32, device=device)
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(batch, device=device), x).square().mean().backward()
    return float(counter.get_total_flops())


def peak(device: torch.device) -> float:
    """Floating-point operations a second of a product of two bf16 matrices of 8,192 rows."""
    a = torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16)
    for repeats in (3, 20):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(repeats):
            a @ a
        synchronize(device)
    return 2 * PRODUCT**3 * 20 / (time.perf_counter() - began)


def side(name: str, steps: int, batch: int, seed: int) -> dict[str, object]:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("torchcfm"):
        return theirs(name.endswith("exact"), steps, batch, seed, device)
    return ours(SIDES[name], steps, batch, seed, device)


def difference(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard error of the relative differences of losses that are paired by seed, in per cent."""
    found = [100 * (a / b - 1) for a, b in pairs]
    return mean(found), stdev(found) / len(found) ** 0.5


if __name__ == "__main__":
    name, steps, batch, seed = sys.argv[1], *map(int, sys.argv[2:5])
    print(json.dumps(side(name, steps, batch, seed)))
