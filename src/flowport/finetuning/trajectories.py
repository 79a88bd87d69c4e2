"""Where, and in which precision, the trajectories of a collection are kept between optimiser steps.

References:
    Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740 (what half precision rounds).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.finetuning.method.base import Rollout
from flowport.tensors import to_host

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the precisions in which trajectories may be kept."""


@dataclass(frozen=True)
class Trajectories:
    """Storage of the trajectories of a collection, which are its records of shape (k, n, *D): states and adjoints.

    Points are read back in their own precision and place (``Rollout.at``). Starts, results and rewards are never
    changed.

    Args:
        dtype: ``"bfloat16"`` (8 binary digits) or ``"float16"`` (11, up to 65504); None: as they are, exactly.
        device: ``"cpu"`` for the host's memory, from which every optimiser step copies the rows that it learns from;
            None: where they are.

    Raises:
        FlowportError: For another precision or place.
    """

    dtype: Literal["bfloat16", "float16"] | None = None
    device: Literal["cpu"] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES) or self.device not in (None, "cpu"):
            raise FlowportError(
                f"trajectories.dtype={self.dtype} and trajectories.device={self.device}: write dtype=bfloat16, float16 "
                "or null, and device=cpu or null"
            )

    def itemsize(self, like: torch.dtype) -> int:
        """Bytes of one stored number.

        Args:
            like: Type of the points.
        """
        return (like if self.dtype is None else DTYPES[self.dtype]).itemsize

    def stored(self, rollout: Rollout, device: torch.device) -> Rollout:
        """A collection on a device, its trajectories as this storage keeps them.

        Args:
            rollout: The collection.
            device: Device of all other tensors.

        Raises:
            FlowportError: For trajectories with numbers that the precision does not hold.
        """
        shape = rollout.end.shape
        kept = {name: self._kept(v, device) for name, v in rollout.record.items() if v.shape[1:] == shape}
        others = {name: v for name, v in rollout.tensors().items() if name not in kept}
        return Rollout.of({name: v.to(device) for name, v in others.items()} | kept)

    def _kept(self, trajectory: Tensor, device: torch.device) -> Tensor:
        low = trajectory if self.dtype is None else trajectory.to(DTYPES[self.dtype])
        if low.dtype == torch.float16 and not bool(low.isfinite().all()):
            raise FlowportError(
                "trajectories.dtype=float16 does not hold the numbers of these trajectories: write bfloat16"
            )
        return to_host(low) if self.device == "cpu" else low.to(device)

    def sentence(self) -> str | None:
        """What is lost, in one sentence; None where nothing is."""
        if self.dtype is None:
            return None
        return f"states and adjoints are kept in {self.dtype}, rounded to {2 if self.dtype == 'bfloat16' else 3} digits"
