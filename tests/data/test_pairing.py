"""How pairs arrive before any coupling."""

import pytest
import torch

from flowport.data.agreement import agreed, common_classes
from flowport.data.pairing import (
    ClassMatchedPairing,
    PairedPairing,
    StoredPairing,
    UnpairedPairing,
    tensors_of,
    write_pairs,
)
from flowport.distribution import Gaussian, Stored
from flowport.errors import FlowportError
from flowport.modality import Plane
from flowport.randomness import Randomness
from flowport.types import Pair, Sample

ROOT = Randomness(2)


def stored(labels, seed=0, classes=3):
    labels = torch.tensor(labels)
    x = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    parts = {"train": torch.arange(len(labels)), "validation": torch.arange(3), "test": torch.arange(2)}
    return Stored("points", x, labels, Plane(), parts, classes=classes)


EVEN, SKEW = stored([0, 1, 2] * 10), stored([0] * 18 + [1] * 9 + [2] * 3, 1)
JOINTS = [UnpairedPairing(EVEN, SKEW), ClassMatchedPairing(EVEN, SKEW), PairedPairing(EVEN, SKEW)]


@pytest.mark.parametrize("pairing", JOINTS, ids=lambda j: type(j).__name__)
def test_pairs_are_a_pure_function_of_their_arguments(pairing):
    first = pairing.pairs(12, 9, ROOT)
    pairing.pairs(0, 5, ROOT)
    torch.manual_seed(7)
    again, other = pairing.pairs(12, 9, ROOT), pairing.pairs(12, 9, ROOT.under("b"))
    for side in ("source", "target"):
        assert torch.equal(getattr(first, side).id, getattr(again, side).id)
        assert torch.equal(getattr(first, side).x, getattr(again, side).x)
    assert not torch.equal(first.target.id, other.target.id)


def test_pairs_continue_the_stream():
    pairing = JOINTS[0]
    whole, parts = pairing.pairs(0, 12, ROOT), [pairing.pairs(k, 4, ROOT) for k in (0, 4, 8)]
    for side in ("source", "target"):
        assert torch.equal(getattr(whole, side).id, torch.cat([getattr(p, side).id for p in parts]))


def test_product_draws_its_sides_independently():
    pair = UnpairedPairing(EVEN, EVEN).pairs(0, 30, ROOT)
    assert sorted(pair.source.id.tolist()) == sorted(pair.target.id.tolist()) == list(range(30))
    assert int((pair.source.id == pair.target.id).sum()) < 10


def test_matched_classes_follow_the_target_and_use_the_source_evenly():
    pairing = JOINTS[1]
    for pair in (pairing.pairs(0, 30, ROOT), pairing.whole(ROOT)):
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


@pytest.mark.parametrize("pairing", JOINTS, ids=lambda j: type(j).__name__)
def test_parts_and_moves_keep_the_kind_of_joint(pairing):
    test = pairing.split("test")
    assert type(test) is type(pairing) and test.source.size == test.target.size == 2
    assert type(pairing.to("cpu")) is type(pairing)
    assert pairing.whole(ROOT).target.id.tolist() == list(range(30))


def test_contradictions_are_refused():
    with pytest.raises(FlowportError, match="one shape"):
        UnpairedPairing(Gaussian(), Gaussian(event_shape=3))
    with pytest.raises(FlowportError, match="same classes"):
        ClassMatchedPairing(EVEN, stored([0, 1], classes=2))
    with pytest.raises(FlowportError, match="same classes"):
        ClassMatchedPairing(Gaussian(), Gaussian())
    with pytest.raises(FlowportError, match="equal length"):
        PairedPairing(EVEN, stored([0, 1, 2]))
    with pytest.raises(FlowportError, match="equal length"):
        PairedPairing(Gaussian(), Gaussian())


def kept(n=40, d=2, mask=None):
    """Pairs whose target is twice their source, of ten items drawn n/10 times each; both sides share one mask."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(3))
    item = torch.arange(n) % 10
    return Pair(Sample(x, label=item % 3, id=item, mask=mask), Sample(2 * x, label=item % 2, mask=mask))


def test_stored_pairs_come_back_as_they_were_written(tmp_path):
    pair, file = kept(mask=torch.rand(40, 2) > 0.3), str(tmp_path / "pairs.safetensors")
    write_pairs(pair, tmp_path / "pairs.safetensors")
    pairing = StoredPairing(EVEN, SKEW, file)
    held, given = tensors_of(pairing.whole(ROOT)), tensors_of(pair)
    names = {"source.x", "source.label", "source.mask", "source.id", "target.x", "target.label", "target.mask"}
    assert held.keys() == given.keys() == names
    assert all(torch.equal(held[name], given[name]) and held[name].dtype == given[name].dtype for name in held)
    train, rest = pairing.split("train"), pairing.split("validation")
    assert len(train.rows) == 36 and len(rest.rows) == 4 and train.source.part == "train"
    assert not set(train.rows.source.id.tolist()) & set(rest.rows.source.id.tolist()), "an item is on one side only"
    assert pairing.stored_bytes() == EVEN.stored_bytes() + SKEW.stored_bytes() + sum(v.nbytes for v in given.values())
    first, again, on = train.pairs(30, 20, ROOT), train.pairs(30, 20, ROOT), train.pairs(35, 15, ROOT)
    assert torch.equal(first.target.x, 2 * first.source.x) and torch.equal(first.source.id % 2, first.target.label)
    assert torch.equal(first.source.x, again.source.x) and torch.equal(first.source.x[5:], on.source.x)
    epoch = train.pairs(36, 36, ROOT)
    assert sorted(epoch.source.x[:, 0].tolist()) == sorted(train.rows.source.x[:, 0].tolist())
    assert not torch.equal(epoch.source.x, train.pairs(0, 36, ROOT).source.x)
    there = pairing.streamed_to(torch.device("meta")).split("train")
    assert there.rows.source.x.device.type == "cpu" and there.pairs(0, 5, ROOT).target.x.device.type == "meta"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p[:9], "holds 9 pairs; at least 10"),
        (lambda p: p.with_x(p.x[:, :1]), r"points of shape \(1,\)"),
        (lambda p: p.with_x(p.x / 0 * 0), "NaN or infinite"),
        (lambda p: p.with_x(p.x[:5]), "holds no pairs, or is damaged"),
    ],
)
def test_wrong_pairs_are_refused(tmp_path, change, sentence):
    pair = kept()
    target = change(pair.target)
    write_pairs(Pair(pair.source[:9] if len(target) == 9 else pair.source, target), tmp_path / "pairs.safetensors")
    with pytest.raises(FlowportError, match=sentence):
        StoredPairing(EVEN, SKEW, str(tmp_path / "pairs.safetensors"))


def test_pairs_that_are_none_are_refused(tmp_path):
    with pytest.raises(FlowportError, match="is not a file"):
        StoredPairing(EVEN, SKEW, str(tmp_path / "absent.safetensors"))
    (tmp_path / "text.safetensors").write_text("0.1 0.2")
    with pytest.raises(FlowportError, match="is damaged"):
        StoredPairing(EVEN, SKEW, str(tmp_path / "text.safetensors"))
    write_pairs(kept(), tmp_path / "pairs.safetensors")
    with pytest.raises(FlowportError, match="only train and validation"):
        StoredPairing(EVEN, SKEW, str(tmp_path / "pairs.safetensors")).split("test")


def test_classes_that_one_side_alone_has_are_left_out_of_matched_pairs():
    """``agreed`` numbers the source's classes by all names of the target's, also by those of which it has no item."""

    def named(labels, names):
        n = torch.arange(len(labels))
        parts = {"train": n, "validation": n, "test": n}
        x = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
        return Stored("points", x, torch.tensor(labels), Plane(), parts, classes=3, class_names=names)

    sides = agreed(named([0, 1, 2] * 4, ("a", "b", "x")), named([0, 1, 2] * 4, ("a", "b", "y")))
    assert common_classes(*sides) == ["a", "b"]
    pairing = ClassMatchedPairing(*sides)
    pair = pairing.pairs(0, 16, ROOT)
    assert torch.equal(pair.source.label, pair.target.label) and set(pair.source.label.tolist()) == {0, 1}
    assert pairing.source.size == pairing.target.size == 8
