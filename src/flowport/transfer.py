"""Copies between host and device that nobody waits for."""

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """x on a device. From the host to CUDA by way of pinned memory: an ordinary copy would wait for all queued work.

    From a device to the host, and between devices, as torch does it.
    """
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
