"""Mixtures of Gaussians with exact density and score, the reference distributions of the tests."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Density
from flowport.distribution.covariance import cholesky
from flowport.distribution.parameter import Numbers, numbers, positive, precision
from flowport.errors import FlowportError
from flowport.modality import Plane
from flowport.types import Sample


@dataclass(frozen=True)
class GaussianComponents:
    """Parameters of the mixture p(x) = Σ_k w_k N(x; m_k, S_k) of K Gaussians in R^d.

    Args:
        weights: Weights w_k, (K,), non-negative with sum 1.
        means: Means m_k, (K, d).
        covariances: Covariances S_k, (K, d, d), symmetric positive definite.
        factors: Lower Cholesky factors L_k of S_k = L_k L_kᵀ, (K, d, d).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    factors: Tensor

    @classmethod
    def of(cls, weights: Numbers, means: Numbers, covariances: Numbers, dtype: torch.dtype) -> "GaussianComponents":
        """The components given by numbers or lists, with the weights normalised to sum 1.

        Args:
            weights: Weights up to a common factor, (K,).
            means: Means, (K, d).
            covariances: One variance for all, K variances, variances (K, d) or matrices (K, d, d).
            dtype: float32 or float64.

        Raises:
            FlowportError: When sizes disagree, a weight is negative, all weights are zero, or a covariance is not
                symmetric positive definite.
        """
        m, w = numbers("means", means, dtype), numbers("weights", weights, dtype)
        if m.ndim != 2:
            raise FlowportError(
                f"means has the shape {tuple(m.shape)}; it must list K points, each a list of d numbers"
            )
        if w.shape != m.shape[:1] or not (w >= 0).all() or not w.sum() > 0:
            raise FlowportError(
                f"weights is {w.tolist()}; it must hold {len(m)} numbers, none negative and not all zero"
            )
        s = _matrices(numbers("covariances", covariances, dtype), *m.shape)
        return cls(w / w.sum(), m, s, cholesky("covariances", s))

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Independent draws with their components.

        Args:
            n: Number of points.
            generator: Source of randomness, on any device.

        Returns:
            Points x = m_k + L_k z, (n, d), and their components k, (n,) int64.
        """
        d = self.means.shape[1]
        place = generator.device
        label = torch.multinomial(self.weights.to(place), n, replacement=True, generator=generator).to(
            self.means.device
        )
        z = torch.randn(n, d, generator=generator, device=place, dtype=self.means.dtype).to(self.means.device)
        return self.means[label] + (self.factors[label] @ z[:, :, None])[:, :, 0], label

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log joint density and score of every component.

        Args:
            x: Points, (n, d).

        Returns:
            log w_k N(x; m_k, S_k), (n, K), and −S_k⁻¹ (x − m_k), (n, K, d).
        """
        kind = torch.promote_types(x.dtype, self.means.dtype)
        gap = (x[:, None] - self.means).to(kind)
        factors = self.factors.to(kind)
        pull = torch.cholesky_solve(gap.permute(1, 2, 0), factors).permute(2, 0, 1)
        logdet = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        squared = (gap * pull).sum(-1)
        log = self.weights.to(kind).log() - 0.5 * (squared + logdet + x.shape[1] * math.log(2 * math.pi))
        return log, -pull

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density log Σ_k w_k N(x; m_k, S_k) in nats, (n,).

        Args:
            x: Points, (n, d).
        """
        return self.posterior(x)[0].logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """Score −Σ_k ρ_k(x) S_k⁻¹ (x − m_k), ρ_k(x) = w_k N(x; m_k, S_k) / p(x), (n, d).

        Args:
            x: Points, (n, d).
        """
        log, pull = self.posterior(x)
        return (log.softmax(1)[:, :, None] * pull).sum(1)

    def mean(self) -> Tensor:
        """Mean E x = Σ_k w_k m_k, (d,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Covariance Cov x = Σ_k w_k (S_k + m_k m_kᵀ) − (E x)(E x)ᵀ, (d, d)."""
        second = self.covariances + self.means[:, :, None] * self.means[:, None, :]
        return torch.einsum("k,kij->ij", self.weights, second) - torch.outer(self.mean(), self.mean())

    def to(self, device: torch.device | str) -> "GaussianComponents":
        """The same components with their tensors on a device.

        Args:
            device: Where the tensors lie.
        """
        return GaussianComponents(*(v.to(device) for v in (self.weights, self.means, self.covariances, self.factors)))


def _matrices(s: Tensor, k: int, d: int) -> Tensor:
    eye = torch.eye(d, dtype=s.dtype, device=s.device)
    if s.ndim == 2 and tuple(s.shape) == (k, d):
        return torch.diag_embed(s)
    if s.numel() == 1 or tuple(s.shape) == (k,):
        return s.reshape(-1, 1, 1).expand(k, 1, 1) * eye
    if tuple(s.shape) != (k, d, d):
        raise FlowportError(
            f"covariances has the shape {tuple(s.shape)}; for {k} components in {d} dimensions it must be one number, "
            f"({k},), ({k}, {d}) or ({k}, {d}, {d})"
        )
    return s


class MixtureDensity(Density):
    """A mixture of Gaussians in R^d whose label is the component of the point.

    A member computes its components and passes them to this constructor.

    Args:
        components: Weights, means and covariances of the K Gaussians.

    To add a member: see ``Distribution``.
    """

    @abstractmethod
    def __init__(self, components: GaussianComponents) -> None:
        self.components = components
        self.classes, d = components.means.shape
        self.event_shape, self.modality = (d,), Plane()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        return Sample(*self.components.draw(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.components.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        return self.components.score(x)

    def to(self, device: torch.device | str) -> "MixtureDensity":
        other = super().to(device)
        assert isinstance(other, MixtureDensity)
        other.components = self.components.to(device)
        return other


@final
class Mixture(MixtureDensity):
    """The Gaussian mixture p(x) = Σ_k w_k N(x; m_k, S_k) in R^d; the label is the component k.

    Args:
        weights: K weights up to a common factor.
        means: K lists of d numbers.
        covariances: One variance for all, K variances, K lists of d variances, or K matrices.
        dtype: float32 or float64.

    Raises:
        FlowportError: When sizes disagree, a weight is negative or a covariance is not positive definite.
    """

    def __init__(
        self, weights: Numbers, means: Numbers, covariances: Numbers, dtype: str | torch.dtype = "float32"
    ) -> None:
        super().__init__(GaussianComponents.of(weights, means, covariances, precision(dtype)))


def _circle() -> Sequence[tuple[float, float]]:
    r = math.sqrt(0.5)
    return (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (r, r), (r, -r), (-r, r), (-r, -r)


@final
class EightGaussians(MixtureDensity):
    """Eight Gaussians on a circle, ⅛ Σ_k N(scale · u_k, variance · I), as in torchcfm; the label is k.

    u_k are unit vectors 45° apart in the order of ``torchcfm.utils.eight_normal_sample``. That function has the
    argument ``var=0.1`` but passes sqrt(0.1) · I to torch as the covariance, so each coordinate has the variance
    sqrt(0.1) ≈ 0.316 (standard deviation 0.562), which is the default here.

    Args:
        scale: Radius of the circle.
        variance: Variance of each coordinate of a component.
        dtype: float32 or float64.

    Raises:
        FlowportError: When scale or variance is not positive.

    References:
        Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
            arXiv:2302.00482.
    """

    def __init__(
        self, scale: float = 5.0, variance: float = math.sqrt(0.1), dtype: str | torch.dtype = "float32"
    ) -> None:
        means = [[positive("scale", scale) * c for c in centre] for centre in _circle()]
        super().__init__(GaussianComponents.of([1.0] * 8, means, positive("variance", variance), precision(dtype)))
