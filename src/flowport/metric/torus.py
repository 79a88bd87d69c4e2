"""Distance of point clouds to the nearest torus, by nonlinear least squares.

References:
    Lukács, Martin and Marshall 1998, "Faithful least-squares fitting of spheres, cylinders, cones and tori for reliable
        segmentation", doi:10.1007/BFb0055697.
    Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters", doi:10.1137/0111030.
"""

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, SampleSize
from flowport.metric.two_sample import TwoSample

STEPS, DAMPING = 30, 1e-3
"""Number of Levenberg–Marquardt steps, and the initial damping."""
TINY = 1e-12


def residuals(points: Tensor, centre: Tensor, axis: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distances of points from tori, f = √((ρ − R)² + z²) − r, and their derivatives.

    z is the coordinate of a point along the axis and ρ its distance from the axis. The derivatives are with respect to
    the centre (3), tilts of the axis towards its ``tangents`` (2), R and r.

    Args:
        points: Clouds, (n, N, 3).
        centre: Centres of the tori, (n, 3).
        axis: Unit vectors of their axes, (n, 3).
        radii: Radii R of the centre line and r of the tube, (n, 2).

    Returns:
        f (n, N) and its derivatives (n, N, 7).
    """
    radius, tube = (part[:, None] for part in radii.unbind(1))
    q = points - centre[:, None]
    z = q @ axis[:, :, None]
    flat = q - z * axis[:, None]
    z, far = z[:, :, 0], flat.norm(dim=2).clamp_min(TINY)
    s = ((far - radius) ** 2 + z**2).sqrt().clamp_min(TINY)
    outwards = (far - radius) / s
    by_centre = -(outwards / far)[:, :, None] * flat - (z / s)[:, :, None] * axis[:, None]
    by_tilt = (z * radius / far / s)[:, :, None] * (q @ tangents(axis))
    slopes = torch.cat([by_centre, by_tilt, -outwards[:, :, None], torch.full_like(z, -1)[:, :, None]], 2)
    return s - tube, slopes


def tangents(axis: Tensor) -> Tensor:
    """Two unit vectors orthogonal to each other and to the axis, (n, 3, 2).

    Args:
        axis: Unit vectors, (n, 3).
    """
    other = torch.zeros_like(axis).scatter_(1, axis.abs().argmin(1, keepdim=True), 1)
    first = torch.linalg.cross(axis, other)
    first = first / first.norm(dim=1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(axis, first)], 2)


def torus_fit(clouds: Tensor) -> Tensor:
    """Root mean square distance of each cloud to its best-fitting torus, (n,) float64, in the unit of the points.

    The fit minimises Σ f² (``residuals``) over seven parameters by the Levenberg–Marquardt method, started from each of
    the three principal axes; the best of the three counts. The tube satisfies r ≤ R, which excludes spheres. Points of
    a torus with independent errors of standard deviation j have a value of about j √(1 − 7/N).

    Args:
        clouds: Clouds, (n, 3, N).
    """
    n, points = len(clouds), clouds.transpose(1, 2).double()
    mean = points.mean(1)
    around = points - mean[:, None]
    vectors = torch.linalg.eigh(around.transpose(1, 2) @ around).eigenvectors
    axis = vectors.transpose(1, 2).reshape(3 * n, 3)
    points, centre = (part.repeat_interleave(3, 0) for part in (points, mean))
    radii = torch.zeros(3 * n, 2, dtype=points.dtype, device=points.device)
    for k in range(2):  # R is the mean distance from the axis, then r the mean distance from the circle of radius R
        q = points - centre[:, None]
        z = (q @ axis[:, :, None])[:, :, 0]
        flat = (q.square().sum(2) - z**2).clamp_min(0).sqrt()
        radii[:, k] = flat.mean(1) if k == 0 else ((flat - radii[:, :1]) ** 2 + z**2).sqrt().mean(1)
    damping = torch.full((3 * n,), DAMPING, dtype=points.dtype, device=points.device)
    f, slopes = residuals(points, centre, axis, radii)
    for _ in range(STEPS):
        square = slopes.transpose(1, 2) @ slopes
        heavier = square + torch.diag_embed(damping[:, None] * square.diagonal(dim1=1, dim2=2) + TINY)
        step = -torch.linalg.solve(heavier, (slopes.transpose(1, 2) @ f[:, :, None]))[:, :, 0]
        tilted = axis + (tangents(axis) @ step[:, 3:5, None])[:, :, 0]
        wide, thin = (radii + step[:, 5:]).unbind(1)
        ring = torch.stack([wide, thin.minimum(wide)], 1)
        trial = (centre + step[:, :3], tilted / tilted.norm(dim=1, keepdim=True), ring)
        new = residuals(points, *trial)
        better = new[0].square().sum(1) < f.square().sum(1)
        centre, axis, radii = (
            torch.where(better[:, None], a, b) for a, b in zip(trial, (centre, axis, radii), strict=True)
        )
        f = torch.where(better[:, None], new[0], f)
        slopes = torch.where(better[:, None, None], new[1], slopes)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-12, 1e12)
    return f.square().mean(1).sqrt().view(n, 3).amin(1)


class TorusFit(TwoSample):
    """Median over clouds of the root mean square distance to the best-fitting torus, see :func:`torus_fit`.

    Values: ``torus_fit``; ``torus_fit_floor``, that of real tori, about their jitter; ``torus_fit_untranslated``, that
    of the source; ``torus_fit_n``. All are in the unit of the points.

    Args:
        points: Largest number of clouds.
        seed: Seed of the subset.
    """

    def __init__(self, points: SampleSize = 200, seed: int = 0) -> None:
        super().__init__("torus_fit", points, seed)

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that points of the target are clouds in space, (3, N).

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the points of the target are not clouds in space.
        """
        if len(target.event_shape) != 2 or target.event_shape[0] != 3:
            raise FlowportError(f"metric=torus_fit is for clouds (3, N), not points {target.event_shape}: leave it out")

    def embed(self, x: Tensor) -> Tensor:
        return x

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": torus_fit(x).median()}
