"""Where a process stands among those that train one run, as its environment says: of flowport's own, torchrun or srun.

Light to import, since every command reads it before its own work begins.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OWN = "FLOWPORT_PROCESSES"
"""Variable by which a process knows that flowport has started it as one of several."""
VARIABLES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", OWN)
"""Variables of one of several processes, beside those that begin with ``PREFIXES``."""
PREFIXES = ("TORCHELASTIC_", "SLURM_", "MASTER_")


@dataclass(frozen=True)
class Place:
    """The place of a process among several.

    Args:
        rank: Its number, from 0.
        size: Number of processes.
        starter: Who started them: ``"flowport"``, ``"torchrun"`` or ``"srun"``.
    """

    rank: int
    size: int
    starter: str


def place_of(variables: Mapping[str, str]) -> Place | None:
    """The place that environment variables name; None for a process alone.

    Args:
        variables: The environment.
    """
    if OWN in variables:
        return Place(int(variables["RANK"]), int(variables[OWN]), "flowport")
    if "TORCHELASTIC_RUN_ID" in variables and int(variables.get("WORLD_SIZE", 1)) > 1:
        return Place(int(variables["RANK"]), int(variables["WORLD_SIZE"]), "torchrun")
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in variables:  # not the batch script itself
        return Place(int(variables["SLURM_PROCID"]), int(variables["SLURM_STEP_NUM_TASKS"]), "srun")
    return None


def here() -> Place | None:
    """The place of this process; None where it is alone."""
    return place_of(os.environ)


def first() -> bool:
    """Whether this process is the one that writes and tells."""
    place = here()
    return place is None or place.rank == 0


def alone() -> dict[str, str]:
    """The environment without a place, for a process of its own."""
    if here() is None:
        return dict(os.environ)
    return {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith(PREFIXES)}


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment of one of several processes that flowport starts on this machine.

    Args:
        rank: Its number, from 0.
        size: Number of processes.
        port: Port at which the first one waits for the others.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // size)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # no note that all weights had a gradient
        **alone(),
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", OWN), str(size)),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def store(place: Place) -> Any:
    """The key-value store of processes that torchrun or srun started, by which the first one tells the others its run.

    Args:
        place: Of this process.
    """
    from datetime import timedelta

    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    from flowport.training.ranks import WAIT

    agents = place.starter == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if place.starter == "torchrun":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + (0 if agents else 1)
    else:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        address, port = SLURMEnvironment().main_address, SLURMEnvironment().main_port + 1
    hosts = place.rank == 0 and not agents
    made = TCPStore(address, port, is_master=hosts, wait_for_workers=False, timeout=timedelta(minutes=5))
    made.set_timeout(WAIT)
    return PrefixStore("flowport", made)


def options_of(processes: int, strategy: str) -> dict[str, Any]:
    """Options of Lightning's Trainer for a number of processes.

    Buffers are equal on all processes, and a part of the weights may have no gradient in a step. Every process draws
    its own rows and validates on all batches, so that Lightning replaces no sampler.

    Args:
        processes: Their number.
        strategy: ``trainer.strategy``.

    Raises:
        FlowportError: Where other processes were started than the trainer has.
    """
    from flowport.errors import FlowportError
    from flowport.run.trainer_options import SHARED

    place = here()
    if place is not None and place.size != processes and place.starter != "flowport":
        raise FlowportError(
            f"{place.starter} started {place.size} processes, but trainer.devices × trainer.num_nodes is {processes}: "
            "give them as many devices and nodes as processes, with trainer=ddp"
        )
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    if processes == 1:  # Lightning would take over the signals of a Slurm job, which are flowport's and submitit's
        return {"plugins": [LightningEnvironment()], **({"strategy": "auto"} if strategy in SHARED else {})}
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from flowport.training.ranks import WAIT

    cluster: Any = LightningEnvironment()
    if place is not None and place.starter == "torchrun":
        cluster = TorchElasticEnvironment()
    if place is not None and place.starter == "srun":
        cluster = SLURMEnvironment(auto_requeue=False)
    shared: Any = DDPStrategy(timeout=WAIT, find_unused_parameters=True, broadcast_buffers=False)
    if strategy == "fsdp":
        from flowport.training.sharding import ShardingStrategy

        shared = ShardingStrategy(processes, 1, save_distributed_checkpoint=False, timeout=WAIT)
    return {"strategy": shared, "use_distributed_sampler": False, "plugins": [cluster]}
