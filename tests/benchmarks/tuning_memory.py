"""Peak of memory of tuning a U-Net of 112 M weights on latents 4 x 64 x 64, by the rows of a piece.

``python -m tests.benchmarks.tuning_memory`` prints the estimates, which are counted without data in some seconds each,
and on CUDA also the peaks that are measured over a collection and a step.
"""

import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian
from flowport.finetuning.adapter import FullAdapter
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import AdjointMatching
from flowport.finetuning.peak_memory import GIB, PeakMemory, peak_memory
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import ADMUNet
from flowport.network.pieces import checkpoint_blocks, set_piece_rows
from flowport.reward import Reward
from flowport.sampling.grid import UniformGrid
from flowport.training.compose import compose
from flowport.types import Condition, Pair, Sample

OPTIONS = {"width": 128, "multipliers": (1, 2, 3, 4), "residual_blocks": 3, "attention": (8,)}
LATENT, STARTS, STEPS = (4, 64, 64), 64, 20
CASES = ((None, False), (64, False), (32, False), (16, False), (8, False), (8, True), (1, False))
"""Rows of a piece, and whether the blocks of the network are checkpointed too."""
CARD = 40
"""Memory in GiB of the card whose largest number of rows is told."""
ADAM = partial(torch.optim.Adam, lr=1e-4)


class Bright(Reward):
    """The mean of a latent: a reward without weights."""

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return x1.flatten(1).mean(1)


def tuning(
    rows: int | None, checkpointing: bool = False, device: str = "meta"
) -> tuple[TiltedField, TiltedField, Pair]:
    """The field with a copy of its network, its moving average, and a batch of starts.

    Args:
        rows: Rows of a piece; None for all.
        checkpointing: Whether the blocks of the network are checkpointed too.
        device: Where weights and starts are; without data by default.
    """

    def network(**given: object) -> ADMUNet:
        with torch.device(device):
            return ADMUNet(**OPTIONS, **given)  # type: ignore[arg-type]

    source = Gaussian(event_shape=list(LATENT))
    base = compose(source, source, coupling=IndependentCoupling(), network=network)[0].ema
    field = TiltedField(base, FullAdapter(base, LATENT, base.conditioning.shape(source, source)))
    if checkpointing:
        checkpoint_blocks(field.adapter)
    ema = TiltedField(base, deepcopy(field.adapter).requires_grad_(False))
    for part in (field, ema):
        set_piece_rows(part, rows)
    x = torch.zeros(STARTS, *LATENT, device=device)
    return field.train(), ema.eval(), Pair(Sample(x), Sample(x))


def estimated(rows: int | None, checkpointing: bool = False, device: str = "meta") -> PeakMemory:
    """The estimate for adjoint matching with Adam.

    Args:
        rows: Rows of a piece; None for all.
        checkpointing: Whether the blocks of the network are checkpointed too.
        device: Where weights and starts are.
    """
    field, ema, pair = tuning(rows, checkpointing, device)
    return peak_memory(field, ema, Bright(), method(), pair, ADAM, rows)


def method() -> AdjointMatching:
    """Adjoint matching in ``STEPS`` steps."""
    return AdjointMatching(ConsistentDiscretisation(UniformGrid(STEPS)))


def measured(rows: int | None, checkpointing: bool = False) -> int:
    """The peak of memory on CUDA of a collection and two optimiser steps, in bytes.

    Args:
        rows: Rows of a piece; None for all.
        checkpointing: Whether the blocks of the network are checkpointed too.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    (field, ema, pair), reward, tuned = tuning(rows, checkpointing, "cuda"), Bright(), method()
    reward.piece_rows = rows
    optimizer, generator = ADAM([p for p in field.parameters() if p.requires_grad]), torch.Generator("cuda")
    pair = replace(pair, source=Sample(torch.randn(STARTS, *LATENT, device="cuda")))
    for _ in range(2):
        rollout, _ = tuned.collect(ema, reward, 1.0, pair, generator)
        optimizer.zero_grad()
        tuned.loss(field, [rollout], generator).mean.backward()
        optimizer.step()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    cuda = torch.cuda.is_available()
    lines = ["| `rows` | `checkpointing` | estimate, GiB | of it activations |" + " measured, GiB |" * cuda]
    lines.append("|---|---|---|---|" + "---|" * cuda)
    for rows, checkpointing in CASES:
        found = estimated(rows, checkpointing)
        line = f"| {rows or 'null'} | {str(checkpointing).lower()} | {found.total / GIB:.1f} "
        line += f"| {found.parts['activations'] / GIB:.1f} |"
        if cuda and found.total < torch.cuda.mem_get_info()[0]:
            line += f" {measured(rows, checkpointing) / GIB:.1f} |"
        lines.append(line)
    lines.append(f"\nA card of {CARD} GiB holds up to {estimated(8).fitting(CARD * GIB)} rows.")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
