"""Exact fields of Gaussians and Gaussian mixtures in closed form.

Component k of a joint mixture has means m0, m1, covariances S0, S1 and cross-covariance C = Cov(x0, x1). On the path
x_t = a x0 + b x1 + g z it is Gaussian with

    μ = a m0 + b m1,   Σ = a²S0 + b²S1 + ab(C + Cᵀ) + g²I,
    Γ = Cov(ẋ, x) = ȧa S0 + ḃb S1 + ȧb C + ḃa Cᵀ + ġg I,
    E[ẋ | x] = μ̇ + Γ Σ⁻¹(x − μ),   E[z | x] = g Σ⁻¹(x − μ),

and a mixture averages over components with weights ρ_k ∝ w_k N(x; μ_k, Σ_k). A field that is a function of x0 uses the
same with m0 = x0, S0 = C = 0 and the conditional law of x1 given x0.

References:
    Albergo et al. 2023, "Stochastic interpolants: a unifying framework for flows and diffusions", arXiv:2303.08797.
    Bishop 2006, "Pattern recognition and machine learning", ISBN 978-0-387-31073-2, section 2.3 (conditioning).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.prediction.base import FlowState, Prediction
from flowport.types import Condition


@dataclass(frozen=True)
class JointMixture:
    """A Gaussian mixture of K components as the joint law of (x0, x1), that is, of source, target and coupling.

    Given x0, weights and means have a leading batch dimension, (B, K) and (B, K, d).

    Args:
        log_weights: Logarithms of the weights up to a constant, (K,).
        m0: Means of x0, (K, d).
        m1: Means of x1, (K, d).
        s0: Covariances of x0, (K, d, d).
        s1: Covariances of x1, (K, d, d).
        cross: Cross-covariances Cov(x0, x1), (K, d, d).
    """

    log_weights: Tensor
    m0: Tensor
    m1: Tensor
    s0: Tensor
    s1: Tensor
    cross: Tensor

    @classmethod
    def gaussian(cls, m0: Tensor, s0: Tensor, m1: Tensor, s1: Tensor, cross: Tensor | None = None) -> "JointMixture":
        """The joint law of two Gaussians with a given cross-covariance.

        Args:
            m0: Mean of x0, (d,).
            s0: Covariance of x0, (d, d).
            m1: Mean of x1, (d,).
            s1: Covariance of x1, (d, d).
            cross: Cov(x0, x1), (d, d); None for independence.
        """
        cross = torch.zeros_like(s0) if cross is None else cross
        return cls(m0.new_zeros(1), m0[None], m1[None], s0[None], s1[None], cross[None])

    @classmethod
    def product(
        cls,
        weights0: Tensor,
        means0: Tensor,
        covariances0: Tensor,
        weights1: Tensor,
        means1: Tensor,
        covariances1: Tensor,
    ) -> "JointMixture":
        """The independent coupling of mixtures of K0 and K1 components, with K0·K1 joint components.

        Args:
            weights0: Weights of the source, (K0,).
            means0: Means of the source, (K0, d).
            covariances0: Covariances of the source, (K0, d, d).
            weights1: Weights of the target, (K1,).
            means1: Means of the target, (K1, d).
            covariances1: Covariances of the target, (K1, d, d).
        """
        n, m = len(weights0), len(weights1)
        i, j = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
        log_weights = weights0.log()[i] + weights1.log()[j]
        zero = torch.zeros_like(covariances0[i])
        return cls(log_weights, means0[i], means1[j], covariances0[i], covariances1[j], zero)

    def given(self, x0: Tensor) -> "JointMixture":
        """The law given the source: a batch of mixtures with m0 = x0 and S0 = C = 0.

        The target has m1 + Cᵀ S0⁻¹ (x0 − m0) and S1 − Cᵀ S0⁻¹ C; the weights are multiplied by N(x0; m0, S0).

        Args:
            x0: Sources, (B, d).
        """
        rest = x0[:, None] - self.m0
        gain = torch.linalg.solve(self.s0, self.cross)  # S0⁻¹ C, (K, d, d)
        m1 = self.m1 + torch.einsum("kij,bki->bkj", gain, rest)
        s1 = self.s1 - self.cross.mT @ gain
        zero = torch.zeros_like(self.s0)
        log_weights = self.log_weights + _log_normal(rest, self.s0)[0]
        return JointMixture(log_weights, x0[:, None].expand_as(m1), m1, zero, s1, zero)


def _log_normal(rest: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density log N(rest; 0, covariance), (B, K), and covariance⁻¹ rest, (B, K, d).

    ``rest`` is (B, K, d) and ``covariance`` (K, d, d) or (B or 1, K, d, d).
    """
    factor = torch.linalg.cholesky(covariance)
    pull = _applied(torch.cholesky_inverse(factor), rest)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (rest * pull).sum(-1) - log_det - 0.5 * rest.shape[-1] * math.log(2 * math.pi), pull


def _applied(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Matrices (K, d, d) or (B or 1, K, d, d) times vectors (B, K, d).

    For matrices that all rows share, einsum computes one product per component, where @ would compute one per row.
    """
    return torch.einsum("...kij,...kj->...ki", matrices, vectors)


class AnalyticField(Field):
    """The exact field of a joint Gaussian mixture on any path, without parameters, for any prediction.

    Points may have any event shape with d elements.

    Args:
        joint: Joint law of (x0, x1), in the dtype of the points.
        path: Probability path.
        prediction: What the output means.
        conditioning: What the field is a function of beside x and t; with the source, the law given x0 is used.
        capabilities: The role of the path's noise, and whether the field has a score.
    """

    def __init__(
        self,
        joint: JointMixture,
        path: Path,
        prediction: Prediction,
        conditioning: Conditioning,
        capabilities: Capabilities,
    ) -> None:
        super().__init__(path, prediction, conditioning, capabilities)
        self.joint = joint

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        start = condition.source if self.conditioning.sees_source else None
        joint = self.joint if start is None else self.joint.given(start.flatten(1))
        coefficients = self.path.coefficients(t)
        c, flat = coefficients, x.flatten(1)
        zero = torch.zeros_like(t)
        values = (c.alpha, c.beta, c.dalpha, c.dbeta, *((zero, zero) if c.gamma is None else (c.gamma, c.dgamma)))
        one_time = len(t) > 1 and t.stride(0) == 0  # a solver's step: one set of matrices for all rows
        a, b, da, db, g, dg = (k[:1] if one_time else k for k in values if k is not None)

        def row(c: Tensor, like: Tensor) -> Tensor:
            return c.view(-1, *(1,) * (3 if like is joint.s0 else 2))

        identity = torch.eye(flat.shape[1], dtype=x.dtype, device=x.device)
        cross, crossed = joint.cross, joint.cross.mT
        mean = row(a, joint.m0) * joint.m0 + row(b, joint.m0) * joint.m1
        drift = row(da, joint.m0) * joint.m0 + row(db, joint.m0) * joint.m1
        s = joint.s0
        covariance = (
            row(a * a, s) * joint.s0
            + row(b * b, s) * joint.s1
            + row(a * b, s) * (cross + crossed)
            + row(g * g, s) * identity
        )
        slope = (
            row(da * a, s) * joint.s0
            + row(db * b, s) * joint.s1
            + row(da * b, s) * cross
            + row(db * a, s) * crossed
            + row(dg * g, s) * identity
        )
        rest = flat[:, None] - mean
        log_density, pull = _log_normal(rest, covariance)
        share = torch.softmax(joint.log_weights + log_density, 1)[..., None]
        velocity = (share * (drift + _applied(slope, pull))).sum(1)
        noise = (share * pull).sum(1) * g[:, None]
        flow_state = FlowState(x, velocity.view_as(x), noise.view_as(x) if self.path.bridge else None)
        return self.prediction.output(flow_state, coefficients, self.start(condition))
