"""Processes together walk the stream of one process with larger batches: of stored data and of laws without end."""

import pytest
import torch

from flowport.coupling import ExactCoupling, IndependentCoupling, SinkhornCoupling
from flowport.coupling.base import Coupling
from flowport.data.pairing import ClassMatchedPairing, PairedPairing, Pairing, UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import EightGaussians, Gaussian, Moons
from flowport.distribution.base import Stored
from flowport.modality import Image
from flowport.randomness import Randomness
from flowport.types import Pair, Sample

ROOT = Randomness(3).under("train")
AUGMENTED = Image(flip=True, shift=2.0, rotation=20.0)


def pictures(seed: int, modality: Image = AUGMENTED) -> Stored:
    raw = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    labels = torch.arange(40) % 4
    return Stored("pictures", raw, labels, modality, {"train": torch.arange(40)}, classes=4)


PAIRINGS: dict[str, Pairing] = {
    "stored": UnpairedPairing(pictures(0), pictures(1)),
    "paired": PairedPairing(pictures(0), pictures(1)),
    "class matched": ClassMatchedPairing(pictures(0), pictures(1)),
    "endless": UnpairedPairing(Gaussian(), EightGaussians()),
    "one endless": UnpairedPairing(Gaussian(event_shape=[1, 8, 8]), pictures(0)),
}


def joined(parts: list[Pair]) -> Pair:
    """The batches of all processes, one below the other."""

    def side(name: str) -> Sample:
        sides = [getattr(part, name) for part in parts]
        both = {k: [getattr(each, k) for each in sides] for k in ("x", "label", "mask", "id")}
        return Sample(**{k: None if v[0] is None else torch.cat(v) for k, v in both.items()})

    return Pair(side("source"), side("target"))


def equal(a: Pair, b: Pair) -> bool:
    for one, other in ((a.source, b.source), (a.target, b.target)):
        for name in ("x", "label", "id"):
            mine, its = getattr(one, name), getattr(other, name)
            if (mine is None) != (its is None) or (mine is not None and not torch.equal(mine, its)):
                return False
    return True


def shards(pairing: Pairing, coupling, pool, size: int, block: int = 1) -> list[PairStream]:
    return [PairStream(pairing, coupling, ROOT, 12 // size, pool, rank, size, block) for rank in range(size)]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", PAIRINGS)
def test_the_pairs_of_several_processes_are_those_of_one(name: str, size: int, block: int) -> None:
    pairing = PAIRINGS[name]
    alone = PairStream(pairing, IndependentCoupling(), ROOT, 12, 1, block=block)
    each = shards(pairing, IndependentCoupling(), 1, size, block)
    for step in (0, 1, 5, 8):
        assert equal(joined([stream.at(step) for stream in each]), alone.at(step)), step


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("name", ["stored", "one law of rows"])
def test_a_coupling_of_the_whole_set_is_shared_pair_by_pair(name: str, block: int) -> None:
    pairing = PAIRINGS["stored"] if name == "stored" else UnpairedPairing(pictures(0, Image()), pictures(1, Image()))
    alone = PairStream(pairing, ExactCoupling(), ROOT, 12, "all", block=block)
    each = shards(pairing, ExactCoupling(), "all", 2, block)
    for step in (0, 2, 3, 7):  # the epoch ends within a batch
        assert equal(joined([stream.at(step) for stream in each]), alone.at(step)), step


@pytest.mark.parametrize("coupling", [ExactCoupling(), SinkhornCoupling(epsilon=0.1)])
@pytest.mark.parametrize("pool", [1, 2])
def test_points_that_are_coupled_together_are_the_pairs_of_one_process(coupling: Coupling, pool: int) -> None:
    for pairing in (PAIRINGS["stored"], UnpairedPairing(Moons(), EightGaussians())):
        alone = PairStream(pairing, coupling, ROOT, 12, pool)
        both = [PairStream(pairing, coupling, ROOT, 6, pool, rank, 2, together=True) for rank in range(2)]
        for step in (0, 1, 4):
            assert equal(joined([stream.at(step) for stream in both]), alone.at(step)), step
            assert both[1].facts_of(step) == alone.facts_of(step)


def test_with_a_coupling_of_its_own_each_process_has_its_part_of_the_pool() -> None:
    law = UnpairedPairing(Moons(), EightGaussians())
    alone = PairStream(law, IndependentCoupling(), ROOT, 12 * 2, 1)
    both = shards(law, ExactCoupling(), 2, 2)
    for pool in (0, 1):
        points = [torch.cat([stream.at(2 * pool + k).source.x for k in (0, 1)]) for stream in both]
        whole = alone.at(pool).source.x
        for rank, own in enumerate(points):
            part = whole[12 * rank : 12 * (rank + 1)]
            assert torch.equal(own.sort(0).values, part.sort(0).values)
