"""Small batches and yardsticks that the coupling tests share."""

import torch
from scipy.optimize import linear_sum_assignment

from flowport.types import Pair, Sample


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(n: int, m: int, d: int, seed: int = 0) -> Pair:
    """Two shifted Gaussians, labelled and numbered."""
    g = seeded(seed)
    return Pair(
        Sample(torch.randn(n, d, generator=g), torch.arange(n) % 3, id=torch.arange(n)),
        Sample(torch.randn(m, d, generator=g) + 1, torch.arange(m) % 5, id=100 + torch.arange(m)),
    )


def squares(pair: Pair) -> torch.Tensor:
    return torch.cdist(pair.source.x.double(), pair.target.x.double()).square()


def optimum(cost: torch.Tensor) -> float:
    """The least total cost of an assignment, by scipy."""
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].sum())
