"""Data files of installed packages, and the resizing of images to one size."""

from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import FlowportError


def file_of(package: str, ending: str, key: str) -> Path:
    """Path of a data file of an installed package.

    Args:
        package: Name of the installed package.
        ending: End of the file's path.
        key: Name of the distribution in the message.

    Raises:
        FlowportError: When the package is not installed or has no such file; the message gives the pip command.
    """
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
    """Square images cropped, resized and padded to (n, 1, size, size) bytes.

    The resizing to size − 2 pad is bilinear and antialiased, and its result is rounded to bytes.

    Args:
        key: Name of the distribution in the message.
        raw: Square images, (n, 1, H, H) uint8.
        size: Height and width of the result, in pixels.
        crop: Pixels cut from every edge before the resizing.
        pad: Black pixels added at every edge after it.

    Raises:
        FlowportError: When crop or pad does not fit the image or the size.
    """
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
