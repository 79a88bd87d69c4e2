"""The independent coupling.

References:
    Lipman et al. 2022, "Flow Matching for Generative Modeling", arXiv:2210.02747.
"""

import torch

from flowport.coupling.assignment import pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.types import Pair


class IndependentCoupling(Coupling):
    """Independent coupling: pairs stay as the pairing drew them, π = p0 ⊗ p1 for independent draws.

    Batches of n and m points become L = lcm(n, m) pairs that use every source L/n times and every target L/m times, the
    targets in random order.
    """

    independent = True

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        n, m, device = len(pair.source), len(pair.target), pair.source.x.device
        rows = torch.arange(pair_count(n, m), device=device)
        if n == m:
            return Plan(rows, rows)
        order = torch.randperm(len(rows), generator=generator, device=generator.device).to(device)
        return Plan(rows % n, order % m)
