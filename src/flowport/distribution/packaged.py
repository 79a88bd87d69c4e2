"""Data that came inside an installed package: where its files lie, and images brought to one size."""

from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import FlowportError


def file_of(package: str, ending: str, key: str) -> Path:
    """The path of the package's file whose name ends so. Raises FlowportError, with the pip command, where it is
    absent."""
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        listed = []
    found = [Path(str(f.locate())) for f in listed if str(f).endswith(ending)]
    if not found or not found[0].is_file():
        raise FlowportError(
            f"distribution={key} reads {ending} from the package {package}, which is not installed: "
            f"pip install 'flowport[embedded-data]'"
        )
    return found[0]


def fitted(key: str, raw: Tensor, size: int, crop: int = 0, pad: int = 0) -> Tensor:
    """Bytes (n, 1, H, W) to (n, 1, size, size): ``crop`` pixels cut from every edge, then resized (bilinear,
    antialiased, rounded to bytes) to size − 2 pad, then ``pad`` black pixels put around."""
    height = raw.shape[2]
    if not 0 <= 2 * crop < height:
        raise FlowportError(f"{key}.crop is {crop}; an image of {height} x {height} allows 0 to {(height - 1) // 2}")
    if not 0 <= 2 * pad < size:
        raise FlowportError(
            f"{key}.size is {size} and {key}.pad {pad}; size must be positive and above twice a pad of at least 0"
        )
    cut, inner = raw[:, :, crop : height - crop, crop : height - crop], size - 2 * pad
    if cut.shape[2] != inner:
        wide = F.interpolate(cut.float(), (inner, inner), mode="bilinear", antialias=True, align_corners=False)
        cut = wide.round().clamp(0, 255).to(torch.uint8)
    return F.pad(cut, (pad, pad, pad, pad)).contiguous()
