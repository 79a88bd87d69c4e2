"""Positive definite covariances S = L Lᵀ of one Gaussian: diagonal for any d, dense for small d."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.distribution.parameter import Numbers, numbers
from flowport.errors import FlowportError


class Covariance(ABC):
    """All maps act on rows (n, d)."""

    @abstractmethod
    def colour(self, z: Tensor) -> Tensor:
        """L z for rows z (n, d)."""

    @abstractmethod
    def precise(self, x: Tensor) -> Tensor:
        """S⁻¹ x for rows x (n, d)."""

    @abstractmethod
    def logdet(self) -> Tensor:
        """log det S, ()."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """S, (d, d)."""

    @abstractmethod
    def is_identity(self) -> bool:
        """True only when S is exactly the identity."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Covariance":
        """The same on a device."""


@dataclass(frozen=True)
class DiagonalCovariance(Covariance):
    """S = diag(variance), variance (d,) > 0."""

    variance: Tensor

    def colour(self, z: Tensor) -> Tensor:
        return z * self.variance.sqrt()

    def precise(self, x: Tensor) -> Tensor:
        return x / self.variance

    def logdet(self) -> Tensor:
        return self.variance.log().sum()

    def matrix(self) -> Tensor:
        return self.variance.diag()

    def is_identity(self) -> bool:
        return bool((self.variance == 1).all())

    def to(self, device: torch.device | str) -> "DiagonalCovariance":
        return DiagonalCovariance(self.variance.to(device))


@dataclass(frozen=True)
class DenseCovariance(Covariance):
    """S and its Cholesky factor L, both (d, d)."""

    values: Tensor
    factor: Tensor

    def colour(self, z: Tensor) -> Tensor:
        return z @ self.factor.T

    def precise(self, x: Tensor) -> Tensor:
        kind = torch.promote_types(x.dtype, self.factor.dtype)
        return torch.cholesky_solve(x.to(kind).T, self.factor.to(kind)).T

    def logdet(self) -> Tensor:
        return 2 * self.factor.diagonal().log().sum()

    def matrix(self) -> Tensor:
        return self.values

    def is_identity(self) -> bool:
        return torch.equal(self.values, torch.eye(len(self.values), dtype=self.values.dtype, device=self.values.device))

    def to(self, device: torch.device | str) -> "DenseCovariance":
        return DenseCovariance(self.values.to(device), self.factor.to(device))


def diagonal(values: Tensor, d: int) -> DiagonalCovariance:
    """A scalar or (d,) variance. Raises FlowportError where the length is not d or a variance is not positive."""
    if values.numel() not in (1, d):
        raise FlowportError(
            f"covariance lists {values.numel()} variances; it must be one number, {d} numbers or {d} x {d}"
        )
    if not (values > 0).all():
        raise FlowportError(f"covariance has the variance {float(values.min())}; every variance must be positive")
    return DiagonalCovariance(values.expand(d).clone())


def dense(values: Tensor, d: int) -> DenseCovariance:
    """A (d, d) matrix. Raises FlowportError unless it is symmetric positive definite."""
    if tuple(values.shape) != (d, d):
        raise FlowportError(f"covariance is a matrix {tuple(values.shape)}; for this event_shape it must be {d} x {d}")
    return DenseCovariance(values, cholesky("covariance", values))


def cholesky(key: str, values: Tensor) -> Tensor:
    """Lower Cholesky factors of (…, d, d). Raises FlowportError unless every matrix is symmetric positive definite."""
    factor, failed = torch.linalg.cholesky_ex(values)
    if failed.any() or not torch.allclose(values, values.mT):
        raise FlowportError(f"{key} must be symmetric and positive definite, but is {values.tolist()}")
    return factor


READINGS = {0: diagonal, 1: diagonal, 2: dense}


def covariance(value: Numbers, d: int, dtype: torch.dtype) -> Covariance:
    """The covariance that a number, a list of d variances or a d x d matrix means."""
    values = numbers("covariance", value, dtype)
    if values.ndim not in READINGS:
        raise FlowportError(f"covariance has {values.ndim} axes; it must be a number, a list of variances or a matrix")
    return READINGS[values.ndim](values, d)
