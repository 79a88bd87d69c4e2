"""Drawing of pairs from a transport plan.

References:
    Kitagawa 1996, "Monte Carlo Filter and Smoother for Non-Gaussian Nonlinear State Space Models" (systematic
        resampling), doi:10.1080/10618600.1996.10474692.
    Maddison, Tarlow and Minka 2014, "A* Sampling" (the Gumbel-max trick), arXiv:1411.0030.
"""

import math

import torch
from torch import Tensor

from flowport.errors import FlowportError

# Rows for which columns are drawn at once.
CHUNK = 4096


def columns(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One column for each row, j ~ softmax(logits[i]), by the Gumbel-max trick.

    A Gumbel variable is −log of an exponential variable. No plan is normalised, so nothing underflows.

    Args:
        logits: Log weights, (n, m), up to a constant in each row.
        generator: Random generator, on any device.

    Returns:
        Column indices, (n,) int64.
    """
    noise = torch.empty(logits.shape, dtype=logits.dtype, device=generator.device).exponential_(generator=generator)
    gumbel = noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().to(logits.device)
    return (logits - gumbel).argmax(1)


def pairs(plan: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) drawn from a transport plan: E[copies of (i, j)] = count · P_ij / ΣP.

    Rows are drawn by systematic resampling: row i appears ⌊e_i⌋ or ⌈e_i⌉ times, e_i = count · P_i· / ΣP. Then a column
    is drawn for each row from P_ij / P_i·. Systematic resampling of all n·m cells at once would be unbiased too, but
    its even steps can hit the same column repeatedly.

    Args:
        plan: Transport plan, (n, m), of any positive mass.
        count: Number of pairs.
        generator: Random generator, on any device.

    Returns:
        Row and column indices, (count,) int64 each.

    Raises:
        FlowportError: When the mass of the plan is zero or not finite.
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
