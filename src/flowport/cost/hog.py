"""Histograms of oriented gradients of moment-normalised images: a descriptor of shape that needs no training."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowport.errors import FlowportError


def normalise(ink: Tensor, size: int, reach: float) -> Tensor:
    """Ink (n, 1, H, W) ≥ 0 → (n, 1, size, size): centred, upright and of one width and height.

    With the ink as a mass density, the image is moved to its centre of mass, sheared by −M_xy / M_yy (upright), and
    scaled so that ``reach`` standard deviations along x and along y fill half of the picture.
    """
    n, _, height, width = ink.shape
    y = torch.linspace(-1, 1, height, device=ink.device).view(1, height, 1)
    x = torch.linspace(-1, 1, width, device=ink.device).view(1, 1, width)
    mass = ink[:, 0] / ink[:, 0].sum((1, 2), keepdim=True).clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (mass * values).sum((1, 2))

    cx, cy = mean(x), mean(y)
    dx, dy = x - cx.view(-1, 1, 1), y - cy.view(-1, 1, 1)
    # a stroke thinner than a pixel, or no ink at all, must not be blown up
    floor = (2 / max(height, width)) ** 2
    yy = mean(dy * dy).clamp(min=floor)
    shear = mean(dx * dy) / yy
    xx = mean((dx - shear.view(-1, 1, 1) * dy) ** 2).clamp(min=floor)
    sx, sy, zero = reach * xx.sqrt(), reach * yy.sqrt(), torch.zeros_like(cx)
    rows = torch.stack([sx, shear * sy, cx, zero, sy, cy], 1).view(n, 2, 3)
    grid = F.affine_grid(rows, [n, 1, size, size], align_corners=True)
    return F.grid_sample(ink, grid, align_corners=True)


class HOGFeatures(nn.Module):
    """(n, C, H, W) images in [−1, 1], ink bright → (n, cells² · orientations) unit vectors.

    Gradient directions modulo π are counted, weighted by the gradient's length, in ``orientations`` bins (shared
    linearly between the two nearest) and cells × cells overlapping windows; the square root of the L1-normalised
    histogram is taken, so that a squared distance is a Hellinger distance.
    deskew: centre, deslant and scale by the image's moments first. size: side of the normalised picture in pixels.
    Mathematics: Dalal and Triggs, CVPR 2005; moment normalisation as in LeCun et al. 1998.
    Raises FlowportError where points are not images.
    """

    def __init__(
        self, cells: int = 5, orientations: int = 8, deskew: bool = True, size: int = 20, reach: float = 2.2
    ) -> None:
        super().__init__()
        self.cells, self.orientations, self.deskew, self.size, self.reach = cells, orientations, deskew, size, reach

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise FlowportError(f"the HOG cost is for images (C, H, W), but a point has shape {tuple(x.shape[1:])}")
        ink = ((x.mean(1, keepdim=True) + 1) / 2).clamp(min=0)
        if self.deskew:
            ink = normalise(ink, self.size, self.reach)
        padded = F.pad(ink[:, 0], (1, 1, 1, 1), mode="replicate")
        gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
        gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
        angle = torch.atan2(gy, gx).remainder(math.pi) * (self.orientations / math.pi)
        centres = torch.arange(self.orientations, device=x.device).view(1, -1, 1, 1)
        gap = (angle.unsqueeze(1) - centres).remainder(self.orientations)
        share = (1 - torch.minimum(gap, self.orientations - gap)).clamp(min=0)
        votes = share * torch.hypot(gx, gy).unsqueeze(1)
        # windows of twice the cell width overlap, so that a stroke at a border belongs to both sides
        side = -(-votes.shape[-1] // self.cells), -(-votes.shape[-2] // self.cells)
        blurred = F.avg_pool2d(votes, (side[1] | 1, side[0] | 1), 1, ((side[1] | 1) // 2, (side[0] | 1) // 2))
        counts = F.adaptive_avg_pool2d(blurred, self.cells).flatten(1)
        return (counts / counts.sum(1, keepdim=True).clamp(min=1e-6)).sqrt()
