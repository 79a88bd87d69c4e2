"""A program for two processes whose weights are split: a whole run, a resumed one, a copied one, and every network.

Each process leaves what it saw in <folder>/<rank>.pt.
"""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from flowport.run.rank_place import here
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.train import train
from flowport.training import ranks
from flowport.training.flow_module import FlowModule
from flowport.training.sharding import shard
from tests.network.test_networks import CONDITIONS, SMALL, built, cases, given
from tests.run.test_finetune import BASE, composed

SPLIT = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "+trainer.gradient_clip_val=0.5")
FLOW = (*BASE, "trainer.max_steps=30", "network.depth=2", "scheduler=constant", "data.batch=128")
FLOW = (*FLOW, "checkpoint_every=1000", "trainer.val_check_interval=10", *SPLIT)
SAW: dict[str, Any] = {"share": [], "weights": [], "validated": []}


def last_weights() -> None:
    """Keep losses of validations, whole weights and averages of every training, and this process's share of them."""
    end, validated = FlowModule.on_train_end, FlowModule.on_validation_epoch_end

    def on_validation_epoch_end(self) -> None:
        validated(self)
        SAW["validated"].append(float(self.trainer.callback_metrics["val/loss"]))

    def on_train_end(self) -> None:
        end(self)
        SAW["weights"].append({name: ranks.whole(value).clone() for name, value in self.state_dict().items()})
        own = sum(ranks.local(p).numel() for p in self.parameters())
        SAW["share"].append(own / sum(p.numel() for p in self.parameters()))

    FlowModule.on_train_end, FlowModule.on_validation_epoch_end = on_train_end, on_validation_epoch_end


def differences(name: str, which: str) -> tuple[float, float]:
    """Relative differences of the outputs and of the gradients of a network and of its copy whose weights are split."""
    network = built(name, CONDITIONS[which])
    split, (x, t, condition) = deepcopy(network), given(name, network.condition)
    shard(split, init_device_mesh("cpu", (ranks.count(),)))
    outs = [one(x, t, condition) for one in (network, split)]
    for out in outs:
        out.square().mean().backward()
    outs = [out.detach() for out in outs]
    pairs = list(zip(network.parameters(), split.parameters(), strict=True))
    gradients = [(p.grad, ranks.whole(q.grad)) for p, q in pairs if p.grad is not None and q.grad is not None]
    assert len(gradients) == sum(p.grad is not None for p in network.parameters()) > 0
    largest = max(float(p.grad.norm()) for p, _ in pairs if p.grad is not None)
    return (
        float((outs[0] - outs[1]).norm() / outs[0].norm()),
        max(float((g - h).norm()) for g, h in gradients) / largest,
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    place = here()
    assert place is not None
    ranks.leave = lambda: None  # one connection for all trainings: torch does not make the groups of a mesh twice
    last_weights()
    SAW["numbers"] = train(composed("train", *FLOW), RunFolder(folder / "whole"))
    train(composed("train", *FLOW, "trainer.max_steps=20"), RunFolder(folder / "broken"))
    resume(RunFolder(folder / "broken"), ["trainer.max_steps=30"])
    train(composed("train", *FLOW, "trainer.strategy=ddp"), RunFolder(folder / "copied"))
    tried = [(name, "all" if (name, "all") in cases() else "none") for name in SMALL]
    SAW["networks"] = {f"{name}, {which}": differences(name, which) for name, which in tried}
    dist.destroy_process_group()
    torch.save(SAW, folder / f"{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
