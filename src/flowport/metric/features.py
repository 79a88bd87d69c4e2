"""Distances in the features of the house's own classifier. They are never called FID: that name means Inception-v3."""

from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.metric.discrepancy import unbiased_mmd
from flowport.metric.precision import rows
from flowport.metric.two_sample import TwoSample

CHUNK = 1024


@runtime_checkable
class FeatureClassifier(Protocol):
    """What feature metrics need of a network: (n, *D) -> logits (n, classes), and features (n, F)."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def features(self, x: Tensor) -> Tensor: ...


def frozen(classifier: nn.Module) -> nn.Module:
    """The classifier in evaluation mode, without gradients."""
    return classifier.eval().requires_grad_(False)


def read(classifier: nn.Module, x: Tensor, features: bool) -> Tensor:
    """(n, *D) -> features (n, F) or logits (n, classes), float64: in chunks, its own dtype, no autocast."""
    frozen(classifier)
    network = cast(FeatureClassifier, classifier)
    dtype = next((p.dtype for p in classifier.parameters()), torch.float32)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        parts = [network.features(part) if features else network(part) for part in x.to(dtype).split(CHUNK)]
    return rows(torch.cat(parts))


def frechet_distance(x: Float[Tensor, "n *f"], y: Float[Tensor, "m *f"]) -> Tensor:
    """FD = |μx − μy|² + tr(Sx + Sy − 2 (Sx^½ Sy Sx^½)^½), S the unbiased covariances: squared W2 of fitted Gaussians.

    With S = RᵀR from a QR factorisation of the centred sample, the last trace is the sum of the singular values of
    Rx Ryᵀ: no square root of an eigenvalue near zero, so fewer points than features are as exact as many.
    Unit: that of x, squared. Returns a float64 scalar. Raises FlowportError for fewer than 2 points on a side.
    Source: Dowson & Landau 1982; Heusel et al. 2017. Its bias grows as F/n: read it against its floor at the same n.
    """
    x, y = rows(x), rows(y)
    if min(len(x), len(y)) < 2:
        raise FlowportError(f"a Fréchet distance needs 2 points on each side, found {len(x)} and {len(y)}")
    roots = [torch.linalg.qr((a - a.mean(dim=0)) / (len(a) - 1) ** 0.5, mode="r").R for a in (x, y)]
    spread = sum(r.square().sum() for r in roots) - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return ((x.mean(dim=0) - y.mean(dim=0)).square().sum() + spread).clamp(min=0)


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x·y/F + 1)³ -> (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: Float[Tensor, "n *f"], y: Float[Tensor, "m *f"], subsets: int, subset_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Kernel distance and its standard error: unbiased MMD² with the cubic kernel, averaged over random subsets.

    Subsets hold r = min(subset_size, half of the smaller side) points of each side. With s the standard deviation over
    subsets and n the smaller side, SE = s (r/(n − r) + 1/subsets)^½: the delete-d jackknife for the data and the noise
    of the subsets themselves. (s alone, as often printed, is the error of one subset; s/√subsets forgets the data.)
    No unit. Returns two float64 scalars. Raises FlowportError for fewer than 4 points on a side or fewer than 2
    subsets.
    Source: Bińkowski et al. 2018; Shao & Wu 1989.
    """
    x, y = rows(x), rows(y)
    n = min(len(x), len(y))
    size = min(subset_size, n // 2)
    if size < 2 or subsets < 2:
        raise FlowportError(f"a kernel distance needs 2 subsets of 2 points, found {subsets} subsets and {n} points")

    def subset(a: Tensor) -> Tensor:
        return a[torch.randperm(len(a), generator=generator, device=generator.device)[:size].to(a.device)]

    values = torch.stack([unbiased_mmd(cubic_kernel, subset(x), subset(y)) for _ in range(subsets)])
    return values.mean(), values.std() * (size / (n - size) + 1 / subsets) ** 0.5


class FrechetDistance(TwoSample):
    """``fd_<name>`` with ``_floor``, ``_untranslated``, ``_retrieved``, ``_n``: Fréchet distance in the features of
    ``classifier``.

    ``_ratio``, ``_ratio_floor``, ``_ratio_retrieved`` and ``_ratio_untranslated`` (which is 1) are the same over
    ``_untranslated``. Left out, with ``_untranslated``, where source and target have different shapes.
    """

    needs_retrieval = True

    def __init__(self, classifier: nn.Module, name: str = "classifier", points: int = 10000, seed: int = 0) -> None:
        super().__init__(f"fd_{name}", points, seed)
        self.classifier = frozen(classifier)

    def embed(self, x: Tensor) -> Tensor:
        return read(self.classifier, x, features=True)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": frechet_distance(x, y)}

    def compute(self) -> dict[str, Tensor]:
        values = super().compute()
        idle = values.get(f"{self.name}_untranslated")
        if idle is None:
            return values
        suffixes = [end for end in ("", "_floor", "_untranslated", "_retrieved") if self.name + end in values]
        return values | {f"{self.name}_ratio{end}": values[self.name + end] / idle for end in suffixes}


class KernelDistance(TwoSample):
    """``kid_<name>``, ``_se``, with ``_floor``, ``_se_floor``, ``_untranslated``, ``_se_untranslated``, ``_n`` and
    the same of what is ``_retrieved``.

    Unbiased, so unlike the Fréchet distance it may be compared across numbers of points. See :func:`kernel_distance`.
    """

    needs_retrieval = True

    def __init__(
        self,
        classifier: nn.Module,
        name: str = "classifier",
        subsets: int = 100,
        subset_size: int = 1000,
        points: int = 10000,
        seed: int = 0,
    ) -> None:
        super().__init__(f"kid_{name}", points, seed)
        self.classifier, self.subsets, self.subset_size = frozen(classifier), subsets, subset_size

    def embed(self, x: Tensor) -> Tensor:
        return read(self.classifier, x, features=True)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        value, error = kernel_distance(x, y, self.subsets, self.subset_size, generator)
        return {"": value, "_se": error}
