"""Entropic optimal transport in the log domain, with constrained or penalised marginals.

References:
    Cuturi 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", arXiv:1306.0895.
    Chizat et al. 2018, "Scaling algorithms for unbalanced optimal transport problems", arXiv:1607.05816.
    Zhang et al. 2025, "On Fitting Flow Models with Large Sinkhorn Couplings", arXiv:2506.05526.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.coupling.assignment import finite

logger = logging.getLogger(__name__)
NEARLY_INDEPENDENT = 0.95
"""Renormalised entropy of a plan from which on it is called nearly independent."""


PART = 2**24
"""Number of entries of a cost that are summed at once."""
FINE = 1e-4
"""Tolerance below which plans are iterated in the precision of the cost on every device."""


@dataclass(frozen=True)
class Potentials:
    """Dual potentials of entropic transport in units of ε, which define the plan log P_ij = f_i + g_j − C_ij/ε.

    Args:
        f: Potential of the source points divided by ε, (n,).
        g: Potential of the target points divided by ε, (m,).
        cost: C/ε, (n, m).
        error: The last measured error, see :func:`solve`.
        iterations: Number of iterations made.
    """

    f: Tensor
    g: Tensor
    cost: Tensor
    error: float
    iterations: int

    def logits(self) -> Tensor:
        """The log of the plan up to a constant in each row, (n, m)."""
        return self.g - self.cost

    def plan(self) -> Tensor:
        """The plan P, (n, m)."""
        return (self.f.unsqueeze(1) + self.g - self.cost).exp()


def solve(cost: Tensor, epsilon: float, damping: float, iterations: int, tolerance: float) -> Potentials:
    """Minimise ⟨P, C⟩ + ε KL(P | abᵀ) + ρ KL(P1 | a) + ρ KL(Pᵀ1 | b), with a = 1/n and b = 1/m.

    Block coordinate maximisation of the dual (Sinkhorn's algorithm) in the log domain, which no ε makes underflow:

        f ← log a − φ LSE_j(g_j − C_ij/ε),    g ← log b − φ LSE_i(f_i − C_ij/ε),    φ = ρ/(ρ + ε).

    Every tenth iteration error = Σ_i a_i |exp(Δf_i/φ) − 1| is measured; for φ = 1 it is the marginal
    error Σ_i |row sum − a_i|. Runs on the device and in the precision of the cost; the host reads that error and
    nothing else. Two matrices of the size of the cost are held, and ``PART`` entries of work.

    Args:
        cost: Cost C, (n, m).
        epsilon: ε > 0, in the units of the cost.
        damping: φ; 1 for ρ = ∞, which constrains the marginals.
        iterations: Largest number of iterations.
        tolerance: Stop where the error is below it.

    Returns:
        The potentials, converged if their ``error`` is below ``tolerance``.

    Raises:
        FlowportError: When the cost is not finite.
    """
    scaled = finite(cost) / epsilon
    n, m = scaled.shape
    across = scaled.T.contiguous()
    log_a, log_b = -math.log(n), -math.log(m)
    f, g = scaled.new_full((n,), log_a), scaled.new_full((m,), log_b)
    error, step = math.inf, 0
    while step < iterations:
        step += 1
        new = log_a - damping * _log_sums(g, scaled)
        measure = step % 10 == 0 or step == iterations
        if measure:
            error = float(((f - new) / damping).expm1().abs().mean())
            if error < tolerance:
                break
        f = new
        g = log_b - damping * _log_sums(f, across)
    return Potentials(f, g, scaled, error, step)


def working_precision(cost: Tensor, tolerance: float) -> torch.dtype:
    """The precision in which a plan is iterated: that of the cost on the CPU, on an accelerator float32.

    There float64 takes twice the time and memory at least, and marginal errors of float32 are below 1e-5. With a
    tolerance below 1e-4 the precision is that of the cost everywhere.

    Args:
        cost: The cost.
        tolerance: Tolerance of the iteration.
    """
    return cost.dtype if cost.device.type == "cpu" or tolerance < FINE else torch.float32


def _log_sums(potential: Tensor, cost: Tensor) -> Tensor:
    """LSE_j(potential_j − cost_ij), (n,), by rows, so that no further matrix of the size of the cost is made."""
    rows = max(1, PART // cost.shape[1])
    return torch.cat([torch.logsumexp(potential - part, 1) for part in cost.split(rows)])


def sharpness(plan: Tensor) -> float:
    """The renormalised entropy (H(P) − log n)/log n of a plan, H = −Σ P log P: 0: permutation, 1: independence.

    P is scaled to mass 1. For n and m points the mean of log n and log m replaces log n.

    Args:
        plan: Transport plan, (n, m), of any positive mass.
    """
    mass = plan / plan.sum()
    entropy = float(-torch.special.xlogy(mass, mass).sum())
    scale = (math.log(plan.shape[0]) + math.log(plan.shape[1])) / 2
    return (entropy - scale) / max(scale, 1e-12)


class IndependenceWarning:
    """Says once, with the number, that the plans of a coupling have become nearly independent of the cost.

    Args:
        option: The coupling's name in the warning, and what to change.
    """

    def __init__(self, option: str) -> None:
        self.option, self.said = option, False

    def __call__(self, entropy: float) -> None:
        """Warn if the plan of a batch is nearly independent.

        Args:
            entropy: Of ``sharpness``.
        """
        if not self.said and entropy > NEARLY_INDEPENDENT:
            self.said = True
            logger.warning(
                "%s is nearly independent: the entropy of its plan is %.3f of that of independent pairs: lower "
                "coupling.epsilon, or use coupling=exact",
                self.option,
                entropy,
            )
