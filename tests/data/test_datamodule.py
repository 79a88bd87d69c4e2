"""The stream of training pairs is a pure function of the step."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from flowport.coupling import ClassConditionalCoupling, ExactCoupling, IndependentCoupling, SinkhornCoupling
from flowport.data.pairing import ClassMatchedPairing, PairedPairing, UnpairedPairing
from flowport.data.prefetching import Batches
from flowport.data.stream import PairStream
from flowport.distribution import EightGaussians, Gaussian, Stored
from flowport.errors import FlowportError
from flowport.modality import Image, Plane
from flowport.randomness import Randomness

ROOT = Randomness(5)


def stored(n, seed, classes=3):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return Stored("points", x, torch.arange(n) % classes, Plane(), {"train": torch.arange(n)}, classes=classes)


A, B = stored(24, 0), stored(24, 1)


def stream(coupling, pool, pairing=None, batch=6, randomness=ROOT):
    return PairStream(pairing or UnpairedPairing(A, B), coupling, randomness, batch, pool)


def same(p, q):
    return all(
        torch.equal(getattr(getattr(p, side), name), getattr(getattr(q, side), name))
        for side in ("source", "target")
        for name in ("x", "label", "id")
    )


@pytest.mark.parametrize("pool", [1, 4, "all"])
@pytest.mark.parametrize("coupling", [IndependentCoupling(), ExactCoupling(), SinkhornCoupling()])
def test_a_batch_is_the_same_whatever_was_asked_before(coupling, pool):
    straight = stream(coupling, pool)
    batches = [straight.at(k) for k in range(9)]
    crooked = stream(coupling, pool)
    for k in (7, 2, 8, 0, 5, 2):
        assert same(crooked.at(k), batches[k])
    assert not same(batches[0], batches[1])


@pytest.mark.parametrize("pool", [1, 4, "all"])
def test_labels_and_ids_travel_with_their_points(pool):
    for k in range(6):
        pair = stream(ExactCoupling(), pool).at(k)
        assert len(pair) == 6
        for sample, data in ((pair.source, A), (pair.target, B)):
            assert torch.equal(sample.x, data.raw[sample.id]) and torch.equal(sample.label, data.labels[sample.id])


@pytest.mark.parametrize("pool", [1, 4, "all"])
@pytest.mark.parametrize("coupling", [IndependentCoupling(), ExactCoupling()])
def test_an_epoch_uses_every_item_of_both_sides_once(coupling, pool):
    for epoch in (0, 1):
        pairs = [stream(coupling, pool).at(4 * epoch + k) for k in range(4)]
        for side in ("source", "target"):
            ids = torch.cat([getattr(p, side).id for p in pairs])
            assert sorted(ids.tolist()) == list(range(24))


def test_pool_all_keeps_one_optimal_plan_and_reshuffles_it_every_epoch():
    s = stream(ExactCoupling(), "all")
    cost = torch.cdist(A.raw.double(), B.raw.double()).square()
    best = dict(zip(*(v.tolist() for v in linear_sum_assignment(cost.numpy())), strict=True))
    orders = []
    for epoch in (0, 1):
        pairs = [s.at(4 * epoch + k) for k in range(4)]
        i, j = (torch.cat([getattr(p, side).id for p in pairs]).tolist() for side in ("source", "target"))
        assert dict(zip(i, j, strict=True)) == best
        orders.append(i)
    assert orders[0] != orders[1]


def test_batches_of_pool_all_run_over_the_end_of_an_epoch():
    s = stream(ExactCoupling(), "all", batch=10)
    ids = torch.cat([s.at(k).source.id for k in range(12)])  # 5 epochs of 24
    for epoch in ids.view(5, 24):
        assert sorted(epoch.tolist()) == list(range(24))


def test_a_larger_pool_pairs_more_closely():
    far, near = (
        sum(float((p.source.x - p.target.x).square().sum()) for p in map(stream(ExactCoupling(), pool).at, range(4)))
        for pool in (1, 4)
    )
    assert near < far


@pytest.mark.parametrize("pool", [1, 3, "all"])
def test_prefetching_gives_the_same_sequence(pool):
    def take(ahead, first):
        found = []
        batches = iter(Batches(stream(ExactCoupling(), pool).at, lambda: first, ahead))
        for _ in range(7):
            found.append(next(batches))
        batches.close()
        return found

    plain = take(0, 2)
    for ahead in (1, 3):
        assert all(same(p, q) for p, q in zip(plain, take(ahead, 2), strict=True))
    assert same(plain[0], stream(ExactCoupling(), pool).at(2)) and same(plain[6], stream(ExactCoupling(), pool).at(8))


def test_ranks_seeds_and_sides_differ():
    base = stream(IndependentCoupling(), 1).at(0)
    assert not same(base, stream(IndependentCoupling(), 1, randomness=Randomness(5, rank=1)).at(0))
    assert not same(base, stream(IndependentCoupling(), 1, randomness=Randomness(6)).at(0))
    twins = stream(IndependentCoupling(), 1, UnpairedPairing(Gaussian(), Gaussian())).at(0)
    assert not torch.equal(twins.source.x, twins.target.x)


def test_analytic_streams_are_fresh_at_every_step():
    s = stream(IndependentCoupling(), 1, UnpairedPairing(Gaussian(), EightGaussians()))
    points = torch.cat([s.at(k).source.x for k in range(5)])
    assert len(points.unique(dim=0)) == 30


def test_paired_data_stay_together_and_class_conditional_keeps_classes():
    pair = stream(IndependentCoupling(), 1, PairedPairing(A, B)).at(3)
    assert torch.equal(pair.source.id, pair.target.id)
    for pool in (1, 4, "all"):
        pair = stream(ClassConditionalCoupling(), pool, ClassMatchedPairing(A, B)).at(1)
        assert torch.equal(pair.source.label, pair.target.label)


@pytest.mark.parametrize(("batch", "pool"), [(0, 1), (4, 0), (-1, 2)])
def test_impossible_sizes_are_refused(batch, pool):
    with pytest.raises(FlowportError, match=r"data\.batch and data\.pool"):
        PairStream(UnpairedPairing(A, B), ExactCoupling(), ROOT, batch, pool)


def test_pool_all_over_a_law_without_end_is_refused():
    with pytest.raises(FlowportError, match=r"data\.pool=all"):
        stream(ExactCoupling(), "all", UnpairedPairing(Gaussian(), EightGaussians())).at(0)


@pytest.mark.parametrize("pool", [1, 3, "all"])
def test_two_processes_together_walk_the_stream_of_one_with_batches_twice_as_large(pool):
    both = [PairStream(UnpairedPairing(A, B), ExactCoupling(), ROOT, 4, pool, rank, 2) for rank in (0, 1)]
    alone = PairStream(UnpairedPairing(A, B), ExactCoupling(), ROOT, 8, pool)
    for first in (0, 3):
        for side in ("source", "target"):
            ids = [
                sorted(torch.cat([getattr(s.at(first + k), side).id for s in streams for k in range(3)]).tolist())
                for streams in (both, [alone])
            ]
            assert ids[0] == ids[1]


def test_processes_share_no_noise():
    law = UnpairedPairing(Gaussian(), EightGaussians())
    a, b = (PairStream(law, ExactCoupling(), ROOT, 16, 2, rank, 2).at(0) for rank in (0, 1))
    assert not torch.isclose(a.source.x[:, None], b.source.x).all(-1).any()


def test_processes_couple_by_noise_of_their_own():
    seeds = []

    class Seen(ExactCoupling):
        def __call__(self, pair, generator):
            seeds.append(generator.initial_seed())
            return super().__call__(pair, generator)

    for rank in (0, 1, 0):
        PairStream(UnpairedPairing(A, B), Seen(), ROOT, 4, 1, rank, 2).at(0)
    assert seeds[0] == seeds[2] != seeds[1]


def test_sides_of_awkward_sizes_are_coupled_by_repeating_a_few_items():
    """lcm(31, 29) = 899 pairs would use every item equally; 31 pairs use two targets twice."""
    pairing = UnpairedPairing(stored(31, 0), stored(29, 1))
    whole = PairStream(pairing, ExactCoupling(), ROOT, 6, "all").whole
    uses = [side.bincount().tolist() for side in whole]
    assert uses[0] == [1] * 31 and sorted(uses[1]) == [1] * 27 + [2] * 2
    even = PairStream(UnpairedPairing(stored(30, 0), stored(20, 1)), ExactCoupling(), ROOT, 6, "all").whole
    assert even[0].bincount().tolist() == [2] * 30 and even[1].bincount().tolist() == [3] * 20


@pytest.mark.parametrize("pairing", [UnpairedPairing, PairedPairing])
def test_both_sides_of_a_fixed_pair_are_augmented_alike(pairing):
    raw = torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    splits = {"train": torch.arange(24)}
    side = Stored("pictures", raw, None, Image(flip=True, shift=2.0, rotation=20.0), splits)
    batch = PairStream(pairing(side, side), ExactCoupling(), ROOT, 24, "all").at(3)
    assert torch.equal(batch.source.id, batch.target.id), "every picture is its own partner"
    assert torch.equal(batch.source.x, batch.target.x)
    assert not torch.equal(batch.source.x, side.draw(batch.source.id, None).x)
    straight = PairStream(PairedPairing(side, side), IndependentCoupling(), ROOT, 6, 1).at(0)
    assert torch.equal(straight.source.x, straight.target.x)


@pytest.mark.parametrize("pool", [1, 2, 3, "all"])
@pytest.mark.parametrize("coupling", [IndependentCoupling(), ExactCoupling(), SinkhornCoupling()])
def test_a_block_draws_what_single_minibatches_draw(coupling, pool):
    """Up to augmentation, whose numbers are those of the block."""
    plain = stream(coupling, pool)
    for block in (2, 5, 7):
        blocks = PairStream(UnpairedPairing(A, B), coupling, ROOT, 6, pool, block=block)
        for k in (3, 0, 9, 10, 2):
            assert same(blocks.at(k), plain.at(k)), (block, k)
            assert blocks.at(k).facts.keys() == plain.at(k).facts.keys()
        assert blocks.facts_of(4) == plain.facts_of(4)


@pytest.mark.parametrize("pool", [1, 2, "all"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_batch_of_a_block_is_the_same_whatever_was_asked_before(pool, rank):
    raw = torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    side = Stored("pictures", raw, None, Image(flip=True, shift=2.0), {"train": torch.arange(24)})

    def blocks():
        return PairStream(UnpairedPairing(side, side), ExactCoupling(), ROOT, 4, pool, rank, 2, block=4)

    straight = blocks()
    batches = [straight.at(k).source.x for k in range(12)]
    crooked = blocks()
    for k in (9, 1, 11, 0, 4, 1):
        assert torch.equal(crooked.at(k).source.x, batches[k])
    assert len(straight._blocks) == 2
    analytic = PairStream(UnpairedPairing(Gaussian(), EightGaussians()), ExactCoupling(), ROOT, 4, 1, block=3)
    assert len(torch.cat([analytic.at(k).source.x for k in range(7)]).unique(dim=0)) == 28


def test_blocks_of_two_processes_walk_the_stream_of_one():
    both = [PairStream(UnpairedPairing(A, B), IndependentCoupling(), ROOT, 3, 1, rank, 2, block=4) for rank in (0, 1)]
    for epoch in (0, 1):
        ids = torch.cat([s.at(4 * epoch + k).source.id for s in both for k in range(4)])
        assert sorted(ids.tolist()) == list(range(24))


def test_the_size_of_a_block_is_chosen_by_points_and_bytes():
    def chosen(batch, source, target):
        source.device = target.device = torch.device("cuda")  # nothing is drawn
        return PairStream(UnpairedPairing(source, target), IndependentCoupling(), ROOT, batch).block

    assert stream(IndependentCoupling(), 1).block == 1, "on the CPU every minibatch is drawn by itself"
    assert chosen(32, Gaussian(event_shape=4), Gaussian(event_shape=4)) == 64
    assert chosen(256, Gaussian(event_shape=4), Gaussian(event_shape=4)) == 8
    assert chosen(5000, Gaussian(event_shape=4), Gaussian(event_shape=4)) == 1
    pictures = [3, 64, 64]
    raw = torch.zeros(24, *pictures, dtype=torch.uint8)
    side = Stored("pictures", raw, None, Image(), {"train": torch.arange(24)})
    assert chosen(32, Gaussian(event_shape=pictures), side) == 2**25 // (32 * 9 * 3 * 64 * 64)


@pytest.mark.parametrize("block", [0, -1])
def test_an_impossible_block_is_refused(block):
    with pytest.raises(FlowportError, match=r"data\.block must be at least 1"):
        PairStream(UnpairedPairing(A, B), ExactCoupling(), ROOT, 4, block=block)
