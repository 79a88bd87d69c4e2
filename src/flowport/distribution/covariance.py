"""Positive definite covariance matrices S = L Lᵀ of one Gaussian: diagonal for any d, dense for small d."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.distribution.parameter import Numbers, numbers
from flowport.errors import FlowportError


class Covariance(ABC):
    """A symmetric positive definite covariance S = L Lᵀ of a Gaussian in R^d.

    A member provides the maps below, which act on the rows of (n, d) tensors and agree with ``matrix``.

    To add a member: subclass this class in this module and give it to ``covariance`` by the number of axes in
    ``CONSTRUCTORS``.
    """

    @abstractmethod
    def colour(self, z: Tensor) -> Tensor:
        """L z, distributed as N(0, S) for z ~ N(0, I), (n, d).

        Args:
            z: Rows, (n, d).
        """

    @abstractmethod
    def apply_precision(self, x: Tensor) -> Tensor:
        """S⁻¹ x, the precision matrix applied to every row, (n, d).

        Args:
            x: Rows, (n, d).
        """

    @abstractmethod
    def logdet(self) -> Tensor:
        """Log-determinant log det S, ()."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """S as a dense matrix, (d, d)."""

    @abstractmethod
    def is_identity(self) -> bool:
        """Whether S is exactly the identity."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Covariance":
        """The same covariance with its tensors on a device.

        Args:
            device: Where its tensors lie.
        """


@dataclass(frozen=True)
class DiagonalCovariance(Covariance):
    """The diagonal covariance S = diag(variance), L = diag(√variance).

    Args:
        variance: Positive variances, (d,).
    """

    variance: Tensor

    def colour(self, z: Tensor) -> Tensor:
        return z * self.variance.sqrt()

    def apply_precision(self, x: Tensor) -> Tensor:
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
    """A dense covariance S with its lower Cholesky factor L.

    Args:
        values: S, (d, d).
        factor: L, (d, d).
    """

    values: Tensor
    factor: Tensor

    def colour(self, z: Tensor) -> Tensor:
        return z @ self.factor.T

    def apply_precision(self, x: Tensor) -> Tensor:
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
    """The diagonal covariance of one variance for all coordinates, or of d variances.

    Args:
        values: One variance, or variances (d,).
        d: Dimension.

    Raises:
        FlowportError: When the number of variances is neither 1 nor d, or a variance is not positive.
    """
    if values.numel() not in (1, d):
        raise FlowportError(
            f"covariance lists {values.numel()} variances; it must be one number, {d} numbers or {d} x {d}"
        )
    if not (values > 0).all():
        raise FlowportError(f"covariance has the variance {float(values.min())}; every variance must be positive")
    return DiagonalCovariance(values.expand(d).clone())


def dense(values: Tensor, d: int) -> DenseCovariance:
    """The covariance of a dense matrix.

    Args:
        values: S, (d, d).
        d: Dimension.

    Raises:
        FlowportError: When the matrix is not (d, d), or not symmetric positive definite.
    """
    if tuple(values.shape) != (d, d):
        raise FlowportError(f"covariance is a matrix {tuple(values.shape)}; for this event_shape it must be {d} x {d}")
    return DenseCovariance(values, cholesky("covariance", values))


def cholesky(key: str, values: Tensor) -> Tensor:
    """Lower Cholesky factors L of a batch of matrices S = L Lᵀ, (…, d, d).

    Args:
        key: Name of the option in the message.
        values: Matrices S, (…, d, d).

    Raises:
        FlowportError: When a matrix is not symmetric positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(values)
    if failed.any() or not torch.allclose(values, values.mT):
        raise FlowportError(f"{key} must be symmetric and positive definite, but is {values.tolist()}")
    return factor


CONSTRUCTORS = {0: diagonal, 1: diagonal, 2: dense}
"""How an option of this number of axes becomes a covariance."""


def covariance(value: Numbers, d: int, dtype: torch.dtype) -> Covariance:
    """The covariance given by a variance, a list of variances or a matrix.

    Args:
        value: One variance, d variances or a (d, d) matrix.
        d: Dimension.
        dtype: float32 or float64.

    Raises:
        FlowportError: When the value has more than two axes, does not fit the dimension or is not positive definite.
    """
    values = numbers("covariance", value, dtype)
    if values.ndim not in CONSTRUCTORS:
        raise FlowportError(f"covariance has {values.ndim} axes; it must be a number, a list of variances or a matrix")
    return CONSTRUCTORS[values.ndim](values, d)
