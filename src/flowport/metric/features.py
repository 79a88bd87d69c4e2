"""Fréchet and kernel distances in the features of a classifier that this package trains on the target dataset.

They are not called FID and KID in the strict sense, which use the features of Inception-v3.

References:
    Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
        arXiv:1706.08500.
    Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401.
"""

from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowport.errors import FlowportError, SampleSize
from flowport.metric.discrepancy import unbiased_mmd
from flowport.metric.precision import rows
from flowport.metric.two_sample import TwoSample
from flowport.reward.base import freeze

CHUNK = 1024
"""Number of points of a pass through the classifier."""


@runtime_checkable
class FeatureClassifier(Protocol):
    """The interface of a network in whose features points are compared: logits (n, classes) and features (n, F)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of points, (n, classes).

        Args:
            x: Points, (n, *D).
        """
        ...

    def features(self, x: Tensor) -> Tensor:
        """Features of points, (n, F).

        Args:
            x: Points, (n, *D).
        """
        ...


def frozen(classifier: nn.Module) -> nn.Module:
    """The classifier itself, set to evaluation mode and without gradients.

    Args:
        classifier: The network, changed in place.
    """
    freeze(classifier)
    return classifier


def read(classifier: nn.Module, x: Tensor, features: bool) -> Tensor:
    """Features (n, F) or logits (n, classes) of points, as float64.

    The network runs in chunks, in its own dtype and without autocast.

    Args:
        classifier: A ``FeatureClassifier``; it is frozen in place.
        x: Points, (n, *D).
        features: True for features, False for logits.

    Raises:
        FlowportError: When a result is not finite.
    """
    frozen(classifier)
    network = cast(FeatureClassifier, classifier)
    dtype = next((p.dtype for p in classifier.parameters()), torch.float32)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        parts = [network.features(part) if features else network(part) for part in x.to(dtype).split(CHUNK)]
    return rows(torch.cat(parts))


def frechet_distance(x: Float[Tensor, "n *f"], y: Float[Tensor, "m *f"]) -> Tensor:
    """Fréchet distance FD = |μx − μy|² + tr(Sx + Sy − 2 (Sx^½ Sy Sx^½)^½), S the unbiased covariances.

    It is the squared W2 of Gaussians with the moments of the two samples. With S = RᵀR from a QR factorisation of the
    centred sample, tr (Sx^½ Sy Sx^½)^½ is the sum of the singular values of Rx Ryᵀ: no square root of an eigenvalue
    near zero is taken, and fewer points than features are handled as accurately as many. The bias grows as F/n, so the
    value is to be compared with its floor at the same n.

    Args:
        x: Features, (n, F).
        y: Features, (m, F).

    Returns:
        A float64 scalar in squared units of x.

    Raises:
        FlowportError: For fewer than 2 points of x or y.

    References:
        Dowson and Landau 1982, "The Fréchet distance between multivariate normal distributions",
            doi:10.1016/0047-259X(82)90077-X.
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
            arXiv:1706.08500.
    """
    x, y = rows(x), rows(y)
    if min(len(x), len(y)) < 2:
        raise FlowportError(f"a Fréchet distance needs 2 points on each side, found {len(x)} and {len(y)}")
    roots = [torch.linalg.qr((a - a.mean(dim=0)) / (len(a) - 1) ** 0.5, mode="r").R for a in (x, y)]
    spread = sum(r.square().sum() for r in roots) - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return ((x.mean(dim=0) - y.mean(dim=0)).square().sum() + spread).clamp(min=0)


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Polynomial kernel k(x, y) = (x·y/F + 1)³, (n, m).

    Args:
        x: Features, (n, F).
        y: Features, (m, F).
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: Float[Tensor, "n *f"], y: Float[Tensor, "m *f"], subsets: int, subset_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Kernel distance and its standard error: unbiased MMD² with the cubic kernel, averaged over random subsets.

    A subset has r = min(subset_size, n/2) points of each sample, n the size of the smaller one. With s the standard
    deviation over subsets, SE = s (r/(n − r) + 1/subsets)^½: the delete-d jackknife error of the data, with d = n − r,
    and the error of a finite number of subsets. (s is the error of one subset, and s/√subsets leaves out the error of
    the data.)

    Args:
        x: Features, (n, F).
        y: Features, (m, F).
        subsets: Number of random subsets, at least 2.
        subset_size: Largest number of points of a subset.
        generator: Randomness of the subsets.

    Returns:
        Distance and standard error, float64 scalars without a unit.

    Raises:
        FlowportError: For fewer than 4 points of x or y, or fewer than 2 subsets.

    References:
        Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401.
        Shao and Wu 1989, "A general theory for jackknife variance estimation", doi:10.1214/aos/1176347263.
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
    """Fréchet distance ``fd_<name>`` between translations and target in the features of a classifier.

    Values: ``fd_<name>`` with ``_floor``, ``_untranslated``, ``_retrieved`` and ``_n``, and the same divided by
    ``_untranslated`` as ``_ratio``, ``_ratio_floor``, ``_ratio_untranslated`` (which is 1) and ``_ratio_retrieved``.
    Where source and target points have different shapes, ``_untranslated`` and the ratios are absent. See
    :func:`frechet_distance`.

    Args:
        classifier: A ``FeatureClassifier`` of target points.
        name: Name of the classifier in the names of the values.
        points: Largest number of points of each sample.
        seed: Seed of the subsets.
    """

    needs_retrieval = True

    def __init__(
        self, classifier: nn.Module, name: str = "classifier", points: SampleSize = 10000, seed: int = 0
    ) -> None:
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
    """Kernel distance ``kid_<name>`` between translations and target in the features of a classifier.

    Values: ``kid_<name>`` and its standard error ``kid_<name>_se``, both with ``_floor``, ``_untranslated`` and
    ``_retrieved``, and ``kid_<name>_n``. It is unbiased, so values with different numbers of points are comparable. See
    :func:`kernel_distance`.

    Args:
        classifier: A ``FeatureClassifier`` of target points.
        name: Name of the classifier in the names of the values.
        subsets: Number of random subsets.
        subset_size: Largest number of points of a subset.
        points: Largest number of points of each sample.
        seed: Seed of the subsets.
    """

    needs_retrieval = True

    def __init__(
        self,
        classifier: nn.Module,
        name: str = "classifier",
        subsets: SampleSize = 100,
        subset_size: SampleSize = 1000,
        points: SampleSize = 10000,
        seed: int = 0,
    ) -> None:
        super().__init__(f"kid_{name}", points, seed)
        self.classifier, self.subsets, self.subset_size = frozen(classifier), subsets, subset_size

    def embed(self, x: Tensor) -> Tensor:
        return read(self.classifier, x, features=True)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        value, error = kernel_distance(x, y, self.subsets, self.subset_size, generator)
        return {"": value, "_se": error}
