"""The exact field of a mixture of Gaussians whose covariances do not depend on the start.

The same as ``flowport.field.AnalyticField``, but without a factorisation for every time. Given x0 (or, from noise,
without it) x_t = o + b x1 + n z, with o = a x0 on a bridge and o = 0 from noise. A component of x1 with covariance U
diag(λ) Uᵀ has, at all times, the variances b²λ + n² in the basis U, so that

    E[ẋ | x] = ȯ + Σ_k ρ_k (ḃ m_k + U_k (bḃλ_k + nṅ)/(b²λ_k + n²) y_k),   y_k = U_kᵀ (x − o − b m_k),

with the posterior probabilities ρ_k of the components given x (and x0).
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
    """Exact velocity field of a path between a source, or Gaussian noise, and a mixture of Gaussians.

    Args:
        law: Law of the results, of one row; of a start at ``centre`` where means depend on the start.
        path: The path.
        conditioning: What the field is conditioned on.
        role: Role of the noise on this path.
        slope: Matrix B, (d, d), by which all means move with the start, m_k + B (x0 − centre); None for 0.
        centre: Start at which the means are those of ``law``, (d,); None for 0.
    """

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
        """The prediction of the exact velocity, (B, *D).

        Args:
            x: Points, (B, d).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
        """
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
