"""How pairs arrive before any coupling."""

import pytest
import torch

from flowport.distribution import Gaussian, Stored
from flowport.errors import Refusal
from flowport.joint import ClassMatched, Paired, Product, StoredPairs, tensors_of, write_pairs
from flowport.modality import Plane
from flowport.randomness import Randomness
from flowport.shapes import Pair, Sample

ROOT = Randomness(2)


def stored(labels, seed=0, classes=3):
    labels = torch.tensor(labels)
    x = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    parts = {"train": torch.arange(len(labels)), "validation": torch.arange(3), "test": torch.arange(2)}
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


def kept(n=40, d=2, mask=None):
    """Pairs whose target is twice their source, of ten items drawn n/10 times each; both sides share one mask."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(3))
    item = torch.arange(n) % 10
    return Pair(Sample(x, label=item % 3, id=item, mask=mask), Sample(2 * x, label=item % 2, mask=mask))


def test_stored_pairs_come_back_as_they_were_written(tmp_path):
    pair, file = kept(mask=torch.rand(40, 2) > 0.3), str(tmp_path / "pairs.safetensors")
    write_pairs(pair, tmp_path / "pairs.safetensors")
    joint = StoredPairs(EVEN, SKEW, file)
    held, given = tensors_of(joint.whole(ROOT)), tensors_of(pair)
    names = {"source.x", "source.label", "source.mask", "source.id", "target.x", "target.label", "target.mask"}
    assert held.keys() == given.keys() == names
    assert all(torch.equal(held[name], given[name]) and held[name].dtype == given[name].dtype for name in held)
    train, rest = joint.split("train"), joint.split("validation")
    assert len(train.rows) == 36 and len(rest.rows) == 4 and train.source.part == "train"
    assert not set(train.rows.source.id.tolist()) & set(rest.rows.source.id.tolist()), "an item is on one side only"
    assert joint.stored_bytes() == EVEN.stored_bytes() + SKEW.stored_bytes() + sum(v.nbytes for v in given.values())
    first, again, on = train.pairs(30, 20, ROOT), train.pairs(30, 20, ROOT), train.pairs(35, 15, ROOT)
    assert torch.equal(first.target.x, 2 * first.source.x) and torch.equal(first.source.id % 2, first.target.label)
    assert torch.equal(first.source.x, again.source.x) and torch.equal(first.source.x[5:], on.source.x)
    epoch = train.pairs(36, 36, ROOT)
    assert sorted(epoch.source.x[:, 0].tolist()) == sorted(train.rows.source.x[:, 0].tolist())
    assert not torch.equal(epoch.source.x, train.pairs(0, 36, ROOT).source.x)
    there = joint.streamed_to(torch.device("meta")).split("train")
    assert there.rows.source.x.device.type == "cpu" and there.pairs(0, 5, ROOT).target.x.device.type == "meta"


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda p: p[:9], "holds 9 pairs; at least 10"),
    (lambda p: p.with_x(p.x[:, :1]), r"points of shape \(1,\)"),
    (lambda p: p.with_x(p.x / 0 * 0), "NaN or infinite"),
    (lambda p: p.with_x(p.x[:5]), "holds no pairs, or is damaged"),
])  # fmt: skip
def test_wrong_pairs_are_refused(tmp_path, change, sentence):
    pair = kept()
    target = change(pair.target)
    write_pairs(Pair(pair.source[:9] if len(target) == 9 else pair.source, target), tmp_path / "pairs.safetensors")
    with pytest.raises(Refusal, match=sentence):
        StoredPairs(EVEN, SKEW, str(tmp_path / "pairs.safetensors"))


def test_pairs_that_are_none_are_refused(tmp_path):
    with pytest.raises(Refusal, match="is not a file"):
        StoredPairs(EVEN, SKEW, str(tmp_path / "absent.safetensors"))
    (tmp_path / "text.safetensors").write_text("0.1 0.2")
    with pytest.raises(Refusal, match="is damaged"):
        StoredPairs(EVEN, SKEW, str(tmp_path / "text.safetensors"))
    write_pairs(kept(), tmp_path / "pairs.safetensors")
    with pytest.raises(Refusal, match="only train and validation"):
        StoredPairs(EVEN, SKEW, str(tmp_path / "pairs.safetensors")).split("test")
