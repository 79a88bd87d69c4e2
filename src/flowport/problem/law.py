"""Mixtures of Gaussians and their tilts by linear and quadratic rewards, in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.distribution.mixture import GaussianComponents
from flowport.errors import FlowportError
from flowport.finetuning.tilt_mass import largest_strength


@dataclass(frozen=True)
class MixtureLaw:
    """Mixtures of Gaussians Σ_k w_k N(m_k, S_k), float64: one for every row, or a single one (B = 1).

    Args:
        log_weights: log w_k, normalised, (B, K).
        means: m_k, (B, K, d).
        covariances: S_k, (K, d, d), shared by the rows.
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def of(cls, components: GaussianComponents) -> "MixtureLaw":
        """The law of given components, of one row.

        Args:
            components: The mixture.
        """
        return cls(
            components.weights.double().log()[None], components.means.double()[None], components.covariances.double()
        )

    def tilted(self, c: Tensor, q: Tensor) -> tuple["MixtureLaw", Tensor]:
        """The law p e^r/Z for r = cᵀx − ½ xᵀQx, and log Z.

            S′ = (S⁻¹ + Q)⁻¹,  m′ = S′(S⁻¹m + c),  w′ ∝ w det(I + SQ)^−½ exp(½ (S⁻¹m + c)ᵀ m′ − ½ mᵀS⁻¹m).

        Args:
            c: Vector of the reward, (d,).
            q: Symmetric matrix Q of the reward, (d, d), with S⁻¹ + Q positive definite.

        Returns:
            The tilted law and log Z, (B,).

        Raises:
            FlowportError: Where S⁻¹ + Q is not positive definite, so that the tilt has no finite mass.
        """
        precision = torch.linalg.inv(self.covariances)
        if bool(torch.linalg.cholesky_ex(precision + q)[1].any()):
            raise FlowportError(
                "this tilt has no finite mass: its reward grows faster than its density falls; it exists below "
                f"{largest_strength(self.covariances, q):.4g} of this strength, or with a larger q"
            )
        covariances = torch.linalg.inv(precision + q)
        pull = torch.einsum("kij,bkj->bki", precision, self.means)
        means = torch.einsum("kij,bkj->bki", covariances, pull + c)
        volume = torch.logdet(torch.eye(len(c), dtype=c.dtype) + self.covariances @ q)
        gain = 0.5 * ((pull + c) * means).sum(2) - 0.5 * (self.means * pull).sum(2) - 0.5 * volume
        joint = self.log_weights + gain
        log_z = joint.logsumexp(1)
        return MixtureLaw(joint - log_z[:, None], means, covariances), log_z

    @property
    def weights(self) -> Tensor:
        """Weights w_k, (B, K)."""
        return self.log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """Mean E x, (B, d)."""
        return (self.weights[..., None] * self.means).sum(1)

    def reward(self, c: Tensor, q: Tensor) -> Tensor:
        """Mean reward E r = Σ_k w_k (cᵀm_k − ½ m_kᵀQm_k − ½ tr QS_k), (B,).

        Args:
            c: Vector of the reward, (d,).
            q: Matrix Q of the reward, (d, d).
        """
        spread = torch.einsum("ij,kji->k", q, self.covariances)
        each = self.means @ c - 0.5 * ((self.means @ q) * self.means).sum(2) - 0.5 * spread
        return (self.weights * each).sum(1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws, (n, d) float64: n of the single law, or one of every row's.

        Args:
            n: Number of draws; the number of rows where there are several.
            generator: Randomness of the draws.

        Raises:
            FlowportError: For a law without finite mass.
        """
        which = torch.multinomial(self.weights.expand(n, -1), 1, generator=generator)[:, 0]
        means = self.means.expand(n, -1, -1)[torch.arange(n), which]
        z = torch.randn(means.shape, generator=generator, dtype=means.dtype)
        factor, failed = torch.linalg.cholesky_ex(self.covariances)
        if bool(failed.any()):
            raise FlowportError("this law has no finite mass: its reward grows faster than its density falls; lower q")
        return means + (factor[which] @ z[..., None])[..., 0]

    def posterior(self, x: Tensor) -> Tensor:
        """Posterior probabilities P(component | x), (n, K).

        Args:
            x: Points, (n, d).
        """
        return self._joint(x).softmax(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, (n,), in nats.

        Args:
            x: Points, (n, d).
        """
        return self._joint(x).logsumexp(1)

    def _joint(self, x: Tensor) -> Tensor:
        """Log joint density of x and each component, (n, K)."""
        normal = torch.distributions.MultivariateNormal(self.means, self.covariances, validate_args=False)
        return normal.log_prob(x.double()[:, None]) + self.log_weights
