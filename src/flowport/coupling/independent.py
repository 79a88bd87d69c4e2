"""Nobody chooses: points stay with the partner they were drawn with."""

import torch

from flowport.coupling.assignment import pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.types import Pair


class IndependentCoupling(Coupling):
    """Independent coupling: pairs stay as drawn, π(x0, x1) = p(x0, x1) of the pairing.

    Batches of n and m points become lcm(n, m) pairs, the targets shuffled.
    """

    independent = True

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        n, m, device = len(pair.source), len(pair.target), pair.source.x.device
        rows = torch.arange(pair_count(n, m), device=device)
        if n == m:
            return Plan(rows, rows)
        order = torch.randperm(len(rows), generator=generator, device=generator.device).to(device)
        return Plan(rows % n, order % m)
