"""The part of a cost that decides who is paired with whom, and its scale.

Adding f(x0) + g(x1) to a cost changes no balanced transport plan: a shift between source and target, a difference in
brightness or the units' origin are such terms. A share of the *mean* cost therefore grows without bound under a shift.
What is invariant is the doubly centred cost, as in classical multidimensional scaling.

References:
    Torgerson 1952, "Multidimensional scaling: I. Theory and method", doi:10.1007/BF02288916 (double centring).
    Huber 1964, "Robust estimation of a location parameter", doi:10.1214/aoms/1177703732 (weights of outliers).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 2.0
"""Rows whose interaction is more than this multiple of the median row's are weighted down to it."""
ROUNDS = 4
"""Passes of weighing and centring: outliers of one side hide those of the other in the first."""
TINY = 16.0
"""An interaction below this multiple of the rounding of the largest cost is zero."""


@dataclass(frozen=True)
class Interaction:
    """The interaction −2K of a cost, C_ij = f_i + g_j − 2 K_ij with K centred in rows and columns.

    Args:
        centred: −2K, (n, m) float64; zero if it is no larger than rounding.
        scale: The mean of :meth:`reduced` over rows and columns, outliers weighted down, () float64. For the squared
            Euclidean cost and equal covariances Σ of both sides 2 tr Σ, the mean cost without the shift.
        rows, columns: Weights in (0, 1] of the rows (n,) and the columns (m,); below 1 for outliers.
    """

    centred: Tensor
    scale: Tensor
    rows: Tensor
    columns: Tensor

    def reduced(self) -> Tensor:
        """The cost C'_ij = [(KKᵀ)^½]_ii + [(KᵀK)^½]_jj − 2K_ij ≥ 0, (n, m): the same for all f and g.

        For K = X Yᵀ (squared Euclidean cost) it is |A X_i − A⁻ᵀ Y_j|², with A the linear map which makes the two
        covariances equal: the squared distance of the centred points where they are equal already. K is weighted by
        w_i v_j inside of the roots, which are divided by w_i² and v_j², so that outliers do not turn the map.
        """
        weighted = -0.5 * self.centred * self.rows[:, None] * self.columns
        n, m = weighted.shape
        if n > m:
            return Interaction(self.centred.T, self.scale, self.columns, self.rows).reduced().T
        values, vectors = torch.linalg.eigh(weighted @ weighted.T)
        roots = values.clamp(min=0).sqrt()
        across = (vectors.T @ weighted) / roots.clamp(min=1e-7 * roots.amax().clamp(min=1e-300))[:, None]
        f = (vectors.square() @ roots) * (n / m) ** 0.5 / self.rows.square()
        g = (roots @ across.square()) * (m / n) ** 0.5 / self.columns.square()
        return (f[:, None] + g + self.centred).clamp(min=0)


def _weights(spread: Tensor) -> Tensor:
    limit = FAR * spread.median()
    return torch.where(spread > limit, limit / spread, 1.0).where(limit > 0, 1.0)


def interaction(cost: Tensor) -> Interaction:
    """Remove f(x0) + g(x1) from a cost, and measure what remains.

    Weighted means over rows and columns are subtracted; rows and columns whose root mean square is then more than
    ``FAR`` times the median one are weighted down to it, and both are repeated. f and g change neither the centred cost
    nor the weights, so C + f + g has the same interaction up to rounding.

    Args:
        cost: Cost C, (n, m).
    """
    exact = cost.detach().double()
    n, m = exact.shape
    centred, rows, columns = exact, exact.new_ones(n), exact.new_ones(m)
    for _ in range(ROUNDS):
        a, b = rows.square() / rows.square().sum(), columns.square() / columns.square().sum()
        centred = exact - (exact @ b)[:, None]
        centred = centred - a @ centred
        squares = centred.square()
        rows, columns = _weights((squares @ b).sqrt()), _weights((a @ squares).sqrt())
    rounding = TINY * torch.finfo(cost.dtype).eps * exact.abs().amax()
    centred = torch.where(centred.abs().amax() > rounding, centred, 0.0)
    weighted = centred * rows[:, None] * columns
    gram = weighted @ weighted.T if n <= m else weighted.T @ weighted
    nuclear = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum() / 2
    scale = 2 * nuclear / (rows.square().sum() * columns.square().sum()).sqrt()
    return Interaction(centred, scale, rows, columns)
