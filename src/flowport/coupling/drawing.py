"""From a transport plan to a list of pairs, by the given generator alone."""

import math

import torch
from torch import Tensor

from flowport.errors import FlowportError

# Rows for which columns are drawn at once.
CHUNK = 4096


def columns(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One column per row, j ~ softmax(logits[i]), (n, m) → (n,): the argmax of logits plus Gumbel noise.

    −log of an exponential variable is a Gumbel variable; no plan is normalised, so nothing underflows.
    """
    noise = torch.empty(logits.shape, dtype=logits.dtype, device=generator.device).exponential_(generator=generator)
    gumbel = noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().to(logits.device)
    return (logits - gumbel).argmax(1)


def pairs(plan: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(i, j), ``count`` pairs from a plan (n, m) of any mass: E[copies of (i, j)] = count · P_ij / ΣP.

    Rows by systematic resampling (row i stands ⌊e_i⌋ or ⌈e_i⌉ times, e_i = count · P_i· / ΣP), then a column for each
    from P_ij / P_i·. (Systematic resampling of all n·m cells would be unbiased too, but its even steps fall on one
    column again and again.) Raises FlowportError for a plan that is not finite or without mass.
    """
    plan = plan.detach()
    heights = plan.double().sum(1).cumsum(0)
    total = float(heights[-1])
    if not math.isfinite(total) or total <= 0:
        raise FlowportError(
            f"the transport plan has mass {total}: nothing can be drawn from it; raise coupling.epsilon"
        )
    start = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).to(plan.device)
    marks = (torch.arange(count, dtype=torch.float64, device=plan.device) + start) * (total / count)
    i = torch.searchsorted(heights, marks, right=True).clamp_(max=len(heights) - 1)
    logits = plan.log()
    return i, torch.cat([columns(logits[rows], generator) for rows in i.split(CHUNK)])
