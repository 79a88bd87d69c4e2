"""Histograms of oriented gradients of moment-normalised images: shape features without training.

References:
    Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection", doi:10.1109/CVPR.2005.177.
    LeCun et al. 1998, "Gradient-based learning applied to document recognition" (deslanting by second moments),
        doi:10.1109/5.726791.
    Arandjelović and Zisserman 2012, "Three things everyone should know to improve object retrieval" (square roots of
        L1-normalised histograms), doi:10.1109/CVPR.2012.6248018.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowport.errors import Checked, Count, FlowportError, Positive


def normalise(ink: Tensor, size: int, reach: float) -> Tensor:
    """Moment normalisation of images: centred, upright and of unit width and height.

    With the intensity as a mass density with moments M, the image is translated to its centre of mass, sheared by
    −M_xy / M_yy to be upright, and scaled so that ``reach`` standard deviations along x and along y fill half of the
    result.

    Args:
        ink: Intensities ≥ 0, (n, 1, H, W).
        size: Side of the result in pixels.
        reach: Standard deviations from the centre to the border.

    Returns:
        Images, (n, 1, size, size).
    """
    n, _, height, width = ink.shape
    y = torch.linspace(-1, 1, height, device=ink.device).view(1, height, 1)
    x = torch.linspace(-1, 1, width, device=ink.device).view(1, 1, width)
    mass = ink[:, 0] / ink[:, 0].sum((1, 2), keepdim=True).clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (mass * values).sum((1, 2))

    cx, cy = mean(x), mean(y)
    dx, dy = x - cx.view(-1, 1, 1), y - cy.view(-1, 1, 1)
    # a stroke thinner than a pixel, or an empty image, must not be magnified
    floor = (2 / max(height, width)) ** 2
    yy = mean(dy * dy).clamp(min=floor)
    shear = mean(dx * dy) / yy
    xx = mean((dx - shear.view(-1, 1, 1) * dy) ** 2).clamp(min=floor)
    sx, sy, zero = reach * xx.sqrt(), reach * yy.sqrt(), torch.zeros_like(cx)
    rows = torch.stack([sx, shear * sy, cx, zero, sy, cy], 1).view(n, 2, 3)
    grid = F.affine_grid(rows, [n, 1, size, size], align_corners=True)
    return F.grid_sample(ink, grid, align_corners=True)


class HOGFeatures(Checked, nn.Module):
    """Histograms of oriented gradients: images (n, C, H, W) → unit vectors (n, cells² · orientations).

    Gradient directions modulo π, weighted by the length of the gradient, are counted in ``orientations`` bins (shared
    linearly between the two nearest) and cells × cells overlapping windows. The result is the square root of the
    L1-normalised histogram, so that squared distances are, up to a factor 2, squared Hellinger distances.

    Args:
        cells: Windows along each side.
        orientations: Bins of the direction in [0, π).
        deskew: Whether to normalise position, slant and size by :func:`normalise` first.
        size: Side of the normalised image in pixels.
        reach: Standard deviations from the centre to the border of the normalised image.
    """

    def __init__(
        self, cells: Count = 5, orientations: Count = 8, deskew: bool = True, size: Count = 20, reach: Positive = 2.2
    ) -> None:
        super().__init__()
        self.cells, self.orientations, self.deskew, self.size, self.reach = cells, orientations, deskew, size, reach

    def forward(self, x: Tensor) -> Tensor:
        """The descriptors of images.

        Args:
            x: Images, (n, C, H, W) in [−1, 1], with bright strokes on a dark background.

        Returns:
            Unit vectors, (n, cells² · orientations); 0 for an image without gradients.

        Raises:
            FlowportError: When the points are not images.
        """
        if x.ndim != 4:
            raise FlowportError(f"the HOG cost is for images (C, H, W), but a point has shape {tuple(x.shape[1:])}")
        intensity = ((x.mean(1, keepdim=True) + 1) / 2).clamp(min=0)
        if self.deskew:
            intensity = normalise(intensity, self.size, self.reach)
        padded = F.pad(intensity[:, 0], (1, 1, 1, 1), mode="replicate")
        gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
        gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
        angle = torch.atan2(gy, gx).remainder(math.pi) * (self.orientations / math.pi)
        centres = torch.arange(self.orientations, device=x.device).view(1, -1, 1, 1)
        gap = (angle.unsqueeze(1) - centres).remainder(self.orientations)
        share = (1 - torch.minimum(gap, self.orientations - gap)).clamp(min=0)
        votes = share * torch.hypot(gx, gy).unsqueeze(1)
        # windows are twice as wide as a cell, so that a stroke at a border counts on both sides
        side = -(-votes.shape[-1] // self.cells), -(-votes.shape[-2] // self.cells)
        blurred = F.avg_pool2d(votes, (side[1] | 1, side[0] | 1), 1, ((side[1] | 1) // 2, (side[0] | 1) // 2))
        counts = F.adaptive_avg_pool2d(blurred, self.cells).flatten(1)
        return (counts / counts.sum(1, keepdim=True).clamp(min=1e-6)).sqrt()
