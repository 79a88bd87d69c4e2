"""Streamed data are the resident data; what does not fit is refused."""

import pytest
import torch

from flowport.coupling import ExactCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.data.placement import GIB, ResidentPlacement, StreamingPlacement
from flowport.data.prefetching import Batches
from flowport.distribution import Gaussian, Stored
from flowport.errors import FlowportError
from flowport.modality import Image
from flowport.randomness import Randomness

CPU = torch.device("cpu")


def pictures(n, seed):
    raw = torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    parts = {"train": torch.arange(n), "validation": torch.arange(n // 2)}
    return Stored("pictures", raw, torch.arange(n) % 3, Image(shift=1.0), parts, classes=3)


JOINT = UnpairedPairing(pictures(40, 0), pictures(40, 1))


@pytest.mark.parametrize("pool", [1, 2, "all"])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_streaming_draws_what_resident_draws(pool, prefetch):
    batches = []
    for placement in (ResidentPlacement(), StreamingPlacement()):
        data = PairDataModule(JOINT, ExactCoupling(), Randomness(3), 8, pool, prefetch, placement=placement)
        data.pairing = data.placed(CPU)
        walk = iter(Batches(data.train.at, lambda: 4, prefetch))
        batches.append([next(walk) for _ in range(5)])
        walk.close()
    for a, b in zip(*batches, strict=True):
        for side in ("source", "target"):
            for name in ("x", "label", "id"):
                assert torch.equal(getattr(getattr(a, side), name), getattr(getattr(b, side), name))


def test_streaming_keeps_the_raw_items_where_they_are():
    there = torch.device("meta")
    streamed = StreamingPlacement().place(JOINT, there)
    assert streamed.source.raw is JOINT.source.raw and streamed.source.device == there
    assert ResidentPlacement().place(JOINT, there).source.raw.device == there
    drawn = streamed.source.draw(torch.arange(5), None)
    assert drawn.x.device == drawn.label.device == drawn.id.device == there and drawn.x.shape == (5, 1, 8, 8)


def test_data_beyond_the_budget_are_refused_with_their_size():
    pairing = UnpairedPairing(pictures(40, 0), Gaussian(event_shape=[1, 8, 8]))
    needed = 40 * 64 + 40 * 8  # bytes of pictures, and of labels
    assert pairing.source.stored_bytes() == needed and pairing.target.stored_bytes() == 0
    ResidentPlacement(gib=needed / GIB).place(pairing, CPU)
    with pytest.raises(FlowportError, match="use data=streaming"):
        ResidentPlacement(gib=(needed - 1) / GIB).place(pairing, CPU)
    with pytest.raises(FlowportError, match="use data=streaming"):
        ResidentPlacement(gib=(2 * needed - 1) / GIB).place(JOINT, CPU)
    with pytest.raises(FlowportError, match="must be above 0"):
        ResidentPlacement(gib=0)
