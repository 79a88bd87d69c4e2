"""Squared distances in a spectral embedding of the common neighbourhood graph of two data sets.

References:
    Belkin and Niyogi 2003, "Laplacian Eigenmaps for Dimensionality Reduction and Data Representation",
        doi:10.1162/089976603321780317.
    Ham, Lee and Saul 2005, "Semisupervised alignment of manifolds" (two data sets), AISTATS 2005.
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from flowport.cost.base import Cost
from flowport.cost.features import features_of
from flowport.cost.squared_euclidean import squared_distances
from flowport.errors import Count, FlowportError
from flowport.types import Sample


def _edges(distances: Tensor, k: int, row: int, column: int) -> Tensor:
    """Edges (2, n·k) from every row to its k nearest columns, numbered from ``row`` and ``column``."""
    near = distances.topk(min(k, distances.shape[1]), dim=1, largest=False).indices
    start = torch.arange(len(near), device=near.device).unsqueeze(1).expand_as(near)
    return torch.stack([start.reshape(-1) + row, near.reshape(-1) + column]).cpu()


class SpectralCost(Cost):
    """Distance in a spectral embedding ψ of source ∪ target: c(x0, x1) = |ψ(x0) − ψ(x1)|².

    Features φ are centred in each domain, which removes a common offset between the domains. Every point is joined to
    its ``within`` nearest neighbours in its own domain and its ``across`` nearest in the other one. ψ are the
    ``dimensions`` leading non-trivial eigenvectors of D^{−1/2} W D^{−1/2}, times D^{−1/2}, each scaled to unit
    variance: neighbours of neighbours come close, and clusters stay together. Dimensionless. ψ depends on the whole
    batch, is deterministic, and is computed on the CPU. Small batches use as many neighbours and dimensions as they
    have.

    Args:
        descriptor: Frozen network φ: (n, *D) → (n, *F); the points themselves where None.
        within: Neighbours in the own domain, ≥ 1.
        across: Neighbours in the other domain, ≥ 1.
        dimensions: Dimension of ψ, ≥ 1.
        chunk: Points per forward pass of φ.

    Raises:
        FlowportError: When a count is below 1, or a feature is not finite.
    """

    def __init__(
        self,
        descriptor: nn.Module | None = None,
        within: int = 8,
        across: int = 2,
        dimensions: int = 14,
        chunk: Count = 1024,
    ) -> None:
        if min(within, across, dimensions) < 1:
            raise FlowportError(
                f"cost.within, cost.across and cost.dimensions must be at least 1, but are {within}, {across} and "
                f"{dimensions}"
            )
        self.descriptor = nn.Identity() if descriptor is None else descriptor.requires_grad_(False)
        self.within, self.across, self.dimensions, self.chunk = within, across, dimensions, chunk

    def _graph(self, a: Tensor, b: Tensor) -> csr_matrix:
        n, m = len(a), len(b)
        own_a, own_b = squared_distances(a, a).fill_diagonal_(torch.inf), squared_distances(b, b)
        own_b.fill_diagonal_(torch.inf)
        between = squared_distances(a, b)
        edges = torch.cat(
            [
                _edges(own_a, min(self.within, max(n - 1, 1)), 0, 0),
                _edges(own_b, min(self.within, max(m - 1, 1)), n, n),
                _edges(between, self.across, 0, n),
                _edges(between.T, self.across, n, 0),
            ],
            1,
        ).numpy()
        directed = coo_matrix((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n + m, n + m)).tocsr()
        # an edge chosen from both ends counts twice
        return directed + directed.T

    def embed(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The spectral coordinates ψ of both sides.

        Args:
            source: Source points, (n, *D).
            target: Target points, (m, *D).

        Returns:
            Coordinates (n, k) and (m, k), float64, k ≤ ``dimensions``.

        Raises:
            FlowportError: When a feature is not finite.
        """
        a, b = (features_of(self.descriptor, x, self.chunk).double() for x in (source, target))
        a, b = a - a.mean(0), b - b.mean(0)
        if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
            raise FlowportError("the spectral cost found NaN or infinite features: only finite data can be coupled")
        graph, nodes = self._graph(a, b), len(a) + len(b)
        scale = 1 / np.sqrt(np.asarray(graph.sum(1)).ravel())
        k = min(self.dimensions + 1, nodes - 1)
        walk = diags(scale) @ graph @ diags(scale)
        # a fixed start vector, since ARPACK would draw one from a global state
        start = np.cos(np.arange(nodes))
        values, vectors = eigsh(walk, k=k, which="LA", v0=start, tol=1e-8)
        order = np.argsort(-values)[1:]
        psi = vectors[:, order] * scale[:, None]
        psi = psi / np.maximum(psi.std(0), 1e-12)
        both = torch.from_numpy(np.ascontiguousarray(psi)).to(source.device)
        return both[: len(a)], both[len(a) :]

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        return squared_distances(*self.embed(source.x, target.x))
