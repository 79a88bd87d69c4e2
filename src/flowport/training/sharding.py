"""Weights and states of the optimiser split over the processes of one training (fully sharded data parallelism).

References:
    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", arXiv:1910.02054.
    Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv:2304.11277.
"""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from flowport.errors import FlowportError
from flowport.network.base import Network
from flowport.training.callback.checkpoint import admitted


class ShardingStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, whose checkpoints are one file with all weights, as those of one process are."""

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        """Load weights and moments into their shards.

        Args:
            checkpoint_path: The file.
            weights_only: Not used: only tensors are ever loaded.

        Returns:
            The counters of the training.
        """
        return admitted(super().load_checkpoint(checkpoint_path, weights_only=True))


def shard(flow: nn.Module, mesh: DeviceMesh) -> None:
    """Split the weights of the networks of a field over processes, in place.

    They are gathered block by block while a network is computed: a block is a member of one of its ``nn.ModuleList``.
    A split network is not captured in a CUDA graph.

    Args:
        flow: The field.
        mesh: The processes, of one dimension.

    Raises:
        FlowportError: For weights outside of its networks, which would differ between processes.
    """
    networks = [module for module in flow.modules() if isinstance(module, Network)]
    within = {p for network in networks for p in network.parameters()}
    outside = next((name for name, p in flow.named_parameters() if p not in within), None)
    if outside is not None:
        raise FlowportError(
            f"trainer.strategy=fsdp splits weights of networks, but {outside} is outside of one: use trainer=ddp"
        )
    for network in networks:
        network.capturable = False
        for part in [*reversed(list(_blocks(network))), network]:  # inner ones first
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _blocks(network: nn.Module) -> Iterable[nn.Module]:
    for module in network.modules():
        for block in module if isinstance(module, nn.ModuleList) else ():
            if not isinstance(block, nn.ModuleList | nn.ModuleDict) and any(True for _ in block.parameters()):
                yield block
