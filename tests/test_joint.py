"""How pairs arrive before any coupling."""

import pytest
import torch

from flowport.distribution import Gaussian, Stored
from flowport.errors import Refusal
from flowport.joint import ClassMatched, Paired, Product
from flowport.modality import Plane
from flowport.randomness import Randomness

ROOT = Randomness(2)


def stored(labels, seed=0, classes=3):
    labels = torch.tensor(labels)
    x = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    parts = {"train": torch.arange(len(labels)), "test": torch.arange(2)}
    return Stored("points", x, labels, Plane(), parts, classes=classes)


EVEN, SKEW = stored([0, 1, 2] * 10), stored([0] * 18 + [1] * 9 + [2] * 3, 1)
JOINTS = [Product(EVEN, SKEW), ClassMatched(EVEN, SKEW), Paired(EVEN, SKEW)]


@pytest.mark.parametrize("joint", JOINTS, ids=lambda j: type(j).__name__)
def test_pairs_are_a_pure_function_of_their_arguments(joint):
    first = joint.pairs(12, 9, ROOT)
    joint.pairs(0, 5, ROOT)
    torch.manual_seed(7)
    again, other = joint.pairs(12, 9, ROOT), joint.pairs(12, 9, ROOT.under("b"))
    for side in ("source", "target"):
        assert torch.equal(getattr(first, side).id, getattr(again, side).id)
        assert torch.equal(getattr(first, side).x, getattr(again, side).x)
    assert not torch.equal(first.target.id, other.target.id)


def test_pairs_continue_the_stream():
    joint = JOINTS[0]
    whole, parts = joint.pairs(0, 12, ROOT), [joint.pairs(k, 4, ROOT) for k in (0, 4, 8)]
    for side in ("source", "target"):
        assert torch.equal(getattr(whole, side).id, torch.cat([getattr(p, side).id for p in parts]))


def test_product_draws_its_sides_independently():
    pair = Product(EVEN, EVEN).pairs(0, 30, ROOT)
    assert sorted(pair.source.id.tolist()) == sorted(pair.target.id.tolist()) == list(range(30))
    assert int((pair.source.id == pair.target.id).sum()) < 10


def test_matched_classes_follow_the_target_and_use_the_source_evenly():
    joint = JOINTS[1]
    for pair in (joint.pairs(0, 30, ROOT), joint.whole(ROOT)):
        assert torch.equal(pair.source.label, pair.target.label)
        assert pair.target.label.bincount().tolist() == [18, 9, 3]
        assert torch.equal(pair.source.x, EVEN.raw[pair.source.id])
        for c, wanted in enumerate((18, 9, 3)):
            uses = pair.source.id[pair.source.label == c].bincount(minlength=30)[c::3]  # the ten sources of class c
            assert int(uses.sum()) == wanted and int(uses.max() - uses.min()) <= 1


def test_paired_items_carry_one_number():
    for pair in (JOINTS[2].pairs(5, 20, ROOT), JOINTS[2].whole(ROOT)):
        assert torch.equal(pair.source.id, pair.target.id)
        assert torch.equal(pair.source.x, EVEN.raw[pair.source.id])
        assert torch.equal(pair.target.x, SKEW.raw[pair.target.id])


@pytest.mark.parametrize("joint", JOINTS, ids=lambda j: type(j).__name__)
def test_parts_and_moves_keep_the_kind_of_joint(joint):
    test = joint.split("test")
    assert type(test) is type(joint) and test.source.size == test.target.size == 2
    assert type(joint.to("cpu")) is type(joint)
    assert joint.whole(ROOT).target.id.tolist() == list(range(30))


def test_contradictions_are_refused():
    with pytest.raises(Refusal, match="one shape"):
        Product(Gaussian(), Gaussian(event_shape=3))
    with pytest.raises(Refusal, match="same classes"):
        ClassMatched(EVEN, stored([0, 1], classes=2))
    with pytest.raises(Refusal, match="same classes"):
        ClassMatched(Gaussian(), Gaussian())
    with pytest.raises(Refusal, match="equal length"):
        Paired(EVEN, stored([0, 1, 2]))
    with pytest.raises(Refusal, match="equal length"):
        Paired(Gaussian(), Gaussian())
