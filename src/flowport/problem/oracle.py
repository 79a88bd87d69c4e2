"""The exact field of a problem: what ``field.Analytic`` computes, without a factorisation for every time.

Given x0 (or not, from noise) x_t = o + b x1 + n z with o = a x0 on a bridge, 0 from noise. A component of x1 with
covariance U diag(λ) Uᵀ has in the basis U at all times the variances b²λ + n², so that

    E[ẋ | x] = ȯ + Σ_k ρ_k (ḃ m_k + U_k (bḃλ_k + nṅ)/(b²λ_k + n²) y_k),   y_k = U_kᵀ (x − o − b m_k).
"""

import torch
from torch import Tensor

from flowport.capabilities import Capabilities as Able
from flowport.capabilities import NoiseRole
from flowport.conditioning import Conditioning
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.prediction import VelocityPrediction
from flowport.prediction.base import FlowState
from flowport.problem.law import MixtureLaw
from flowport.tensors import over
from flowport.types import Condition


class SharedCovarianceField(Field):
    """law: of results from a start at ``centre`` (d,), one for all rows; a bridge's means move by slope (d, d) times
    x0 − centre. From noise there is neither."""

    def __init__(
        self,
        law: MixtureLaw,
        path: Path,
        conditioning: Conditioning,
        role: NoiseRole,
        slope: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> None:
        super().__init__(path, VelocityPrediction(), conditioning, Able(role, True))
        values, basis = torch.linalg.eigh(law.covariances)
        slope, centre = (torch.zeros(()) if v is None else v for v in (slope, centre))
        self.known = (law.log_weights, law.means, values, basis, slope, centre)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        start = condition.source if self.conditioning.sees_source else None
        log_weights, means, values, basis, slope, centre = (v.to(x) for v in self.known)
        c, offset, drift = self.path.coefficients(t), torch.zeros_like(x), torch.zeros_like(x)
        if start is not None:
            offset, drift = over(c.alpha, x) * start, over(c.dalpha, x) * start
            means = means + ((start - centre) @ slope.mT)[:, None]
        n, dn = self.capabilities.role.amplitude(c)
        b, db, n, dn = (over(v, means.expand(len(x), -1, -1)).to(x.dtype) for v in (c.beta, c.dbeta, n, dn))
        y = torch.einsum("kij,bki->bkj", basis, (x - offset)[:, None] - b * means)
        variance = b**2 * values + n**2
        pull = y / variance
        share = (log_weights - 0.5 * (y * pull + variance.log()).sum(2)).softmax(1)[..., None]
        moved = torch.einsum("kij,bkj->bi", basis, share * (b * db * values + n * dn) * pull)
        velocity = drift + (share * db * means).sum(1) + moved
        noise = torch.einsum("kij,bkj->bi", basis, share * n * pull)
        return self.prediction.output(
            FlowState(x, velocity, noise if self.path.bridge else None), c, self.start(condition)
        )
