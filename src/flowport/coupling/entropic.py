"""Entropic optimal transport in the log domain, with balanced or relaxed marginals."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.coupling.assignment import finite


@dataclass(frozen=True)
class Potentials:
    """log P_ij = f_i + g_j − C_ij/ε, with f, g and cost already divided by ε. error: the last change of f."""

    f: Tensor
    g: Tensor
    cost: Tensor
    error: float
    iterations: int

    def logits(self) -> Tensor:
        """(n, m) log of the plan, up to a constant in each row."""
        return self.g - self.cost

    def plan(self) -> Tensor:
        """(n, m) plan P."""
        return (self.f.unsqueeze(1) + self.g - self.cost).exp()


def solve(cost: Tensor, epsilon: float, damping: float, iterations: int, tolerance: float) -> Potentials:
    """min ⟨P, C⟩ + ε KL(P | a bᵀ) + ρ KL(P1 | a) + ρ KL(Pᵀ1 | b), a = 1/n, b = 1/m, damping = ρ/(ρ + ε), 1 for ρ = ∞.

    Block ascent on the dual (Sinkhorn; Chizat et al. 2018 for ρ < ∞), in logarithms, so that no ε underflows:
    f ← log a − φ LSE_j(g − C/ε), g ← log b − φ LSE_i(f − C/ε), φ = damping. Every tenth step the change of f is
    measured, error = Σ_i a_i |e^{Δf_i/φ} − 1|, which for φ = 1 is Σ_i |row sum − a_i|; it stops below tolerance.
    cost: (n, m), ε in its units. Runs on the device of the cost, in its precision.
    """
    scaled = finite(cost) / epsilon
    n, m = scaled.shape
    across = scaled.T.contiguous()
    log_a, log_b = -math.log(n), -math.log(m)
    f, g = scaled.new_full((n,), log_a), scaled.new_full((m,), log_b)
    error, step = math.inf, 0
    while step < iterations:
        step += 1
        new = log_a - damping * torch.logsumexp(g - scaled, 1)
        measure = step % 10 == 0 or step == iterations
        if measure:
            error = float(((f - new) / damping).expm1().abs().mean())
            if error < tolerance:
                break
        f = new
        g = log_b - damping * torch.logsumexp(f - across, 1)
    return Potentials(f, g, scaled, error, step)


def sharpness(plan: Tensor) -> float:
    """(H(P) − log n) / log n with H = −Σ P log P: 0 for a permutation, 1 for independence (Zhang et al. 2025).

    n and m points: the mean of log n and log m takes the place of log n.
    """
    mass = plan / plan.sum()
    entropy = float(-torch.special.xlogy(mass, mass).sum())
    scale = (math.log(plan.shape[0]) + math.log(plan.shape[1])) / 2
    return (entropy - scale) / max(scale, 1e-12)
