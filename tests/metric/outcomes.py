"""Evaluations to measure: an outcome from clouds, its batches, and exact-moment Gaussian samples."""

import torch
from torch import Tensor

from flowport.metric import EvaluationResult
from flowport.types import Sample


def draw(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def outcome_of(n: int = 60, d: int = 2, dtype: torch.dtype = torch.float64, **changes: object) -> EvaluationResult:
    """Source, result, target and floor of n points each, labels 0-2, and a straight trajectory."""
    source, result, target, floor = (
        draw(n, d, seed, dtype) + shift for seed, shift in ((1, 3.0), (2, 1.0), (3, 0), (4, 0))
    )
    label = torch.arange(n) % 3
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = torch.stack([(1 - t) * source + t * result for t in times.to(dtype)])
    given = {
        "source": Sample(source, label=label),
        "result": result,
        "target": Sample(target, label=label),
        "floor": Sample(floor, label=label),
        "times": times,
        "states": states,
        "velocity": lambda x, t: (1 + t)[:, None].to(x.dtype) * x,
        "reference_cost": 2.0,
        "condition_label": label,
        "candidates": Sample(target, label=label),
        "partner_at": torch.arange(n),
    }
    return EvaluationResult(**(given | changes))  # type: ignore[arg-type]


def part(outcome: EvaluationResult, where: slice) -> EvaluationResult:
    return EvaluationResult(
        source=outcome.source[where],
        result=outcome.result[where],
        target=outcome.target[where],
        floor=outcome.floor[where],
        times=outcome.times,
        states=outcome.states[:, where],
        velocity=outcome.velocity,
        reference_cost=outcome.reference_cost,
        condition_label=None if outcome.condition_label is None else outcome.condition_label[where],
        candidates=outcome.candidates,
        partner_at=None if outcome.partner_at is None else outcome.partner_at[where],
    )


def exact_gaussian(n: int, mean: Tensor, root: Tensor, seed: int) -> Tensor:
    """n points whose empirical mean is ``mean`` and whose unbiased covariance is root rootᵀ, to rounding."""
    x = draw(n, len(mean), seed)
    x = x - x.mean(dim=0)
    white = torch.linalg.qr(x).Q * (n - 1) ** 0.5
    return white @ root.T + mean
