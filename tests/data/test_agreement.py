"""Two sides of files: modalities of one meaning, classes and partners by name."""

import logging

import pytest
import torch

from flowport.data.agreement import agreed, check_modalities, class_names, common_classes, partners
from flowport.data.pairing import ClassMatchedPairing, PairedPairing
from flowport.distribution import Gaussian
from flowport.distribution.base import Stored, item_keys
from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT, Image, LogMel, Plane
from flowport.randomness import Randomness


def stored(names=(), labels=None, class_names=(), splits=None, n=None, modality=None):
    n = n or len(names)
    splits = splits or {
        "train": torch.arange(n - 2),
        "validation": torch.tensor([n - 2]),
        "test": torch.tensor([n - 1]),
    }
    raw = torch.arange(n).float()[:, None].expand(n, 2).contiguous()
    labels = None if labels is None else torch.tensor(labels)
    return Stored("d", raw, labels, modality or Plane(), splits, "train", len(class_names), class_names, tuple(names))


def test_items_are_identified_by_their_names_without_suffix():
    assert item_keys(["a/x.png", "b.c.jpg", "a/x.jpg", "w.wav", "w.wav#1", "no"]) == [
        None,
        "b.c",
        None,
        "w",
        "w#1",
        "no",
    ]
    assert item_keys(["a.b/c"]) == ["a.b/c"]


def test_partners_have_equal_relative_paths():
    a, b = stored(["p/x.png", "y.png", "z.png"]), stored(["y.webp", "p/x.jpg", "q/z.png"])
    assert partners(a, b).tolist() == [1, 0, -1] and partners(b, a).tolist() == [1, 0, -1]
    assert partners(a, stored(n=3)).tolist() == [-1, -1, -1]


def test_partners_lie_in_one_split(caplog):
    a = stored([f"{k}.png" for k in range(8)])
    b = stored([f"{k}.jpg" for k in (7, 6, 5, 4, 3, 2, 1, 0, 9)])
    with caplog.at_level(logging.INFO):
        _, target = agreed(a, b)
    assert "8 of 8 source items and of 9 target items have a partner" in caplog.text
    for part, rows in a.splits.items():
        theirs = target.splits[part].tolist()
        assert {b.names[j].split(".")[0] for j in theirs} >= {a.names[i].split(".")[0] for i in rows.tolist()}
    assert sorted(torch.cat(list(target.splits.values())).tolist()) == list(range(9))
    assert target.splits["test"].tolist() == [0, 8], "without a partner an item stays where it was"
    assert b.splits["test"].tolist() == [8], "nothing was changed in place"


def test_classes_are_numbered_by_the_names_of_the_target(caplog):
    a = stored("abcde", [0, 1, 2, 0, 1], ("cat", "dog", "emu"))
    b = stored("vwxyz", [0, 1, 2, 0, 1], ("dog", "emu", "fox"))
    with caplog.at_level(logging.WARNING):
        source, target = agreed(a, b)
    assert source.class_names == ("dog", "emu", "fox", "cat") and source.classes == 4
    assert source.labels.tolist() == [3, 0, 1, 3, 0] and target.labels.tolist() == [0, 1, 2, 0, 1]
    assert "source alone: cat" in caplog.text and "target alone: fox" in caplog.text
    assert common_classes(source, target) == ["dog", "emu"] and a.labels.tolist() == [0, 1, 2, 0, 1]
    numbers = stored("abcde", [0, 1, 2, 0, 1], ("2", "0", "1"))
    named, _ = agreed(numbers, Stored("n", b.raw, b.labels, Plane(), b.splits, "train", 3))
    assert named.labels.tolist() == [2, 0, 1, 2, 0] and class_names(named) == ("0", "1", "2")


def test_matched_classes_are_the_common_ones(caplog):
    whole = {name: torch.arange(6) for name in ("train", "validation", "test")}
    a = stored("abcdef", [0, 0, 0, 1, 1, 1], ("cat", "dog"), whole)
    b = stored("uvwxyz", [0, 0, 0, 1, 1, 1], ("dog", "fox"), whole)
    pairing = ClassMatchedPairing(*agreed(a, b))
    pair = pairing.pairs(0, 40, Randomness(0))
    assert set(pair.source.x[:, 0].tolist()) == {3, 4, 5} and set(pair.target.x[:, 0].tolist()) == {0, 1, 2}
    assert pairing.source.class_names == pairing.target.class_names == ("dog",)
    assert "the 1 common classes alone: dog" in caplog.text
    with pytest.raises(FlowportError, match="the source has cat, dog and the target x, y"):
        ClassMatchedPairing(a, stored("uvwxyz", [0, 0, 0, 1, 1, 1], ("x", "y"), whole))


def test_paired_data_are_paired_by_name_and_the_number_of_partners_is_said(caplog):
    a = stored([f"{k}.png" for k in range(8)])
    b = stored([f"{k}.jpg" for k in (7, 6, 5, 4, 3, 2, 1, 9)])
    pairing = PairedPairing(*agreed(a, b))
    assert "the 7 items that have a partner, of 8 of the source and 8 of the target" in caplog.text
    for part in ("train", "test"):
        pair = pairing.split(part).pairs(0, 12, Randomness(0))
        assert torch.equal(7 - pair.target.x, pair.source.x)
    assert pairing.source.corresponds(pairing.target)
    with pytest.raises(FlowportError, match=r"none in common \(the first are 0\.png and x\)"):
        PairedPairing(a, stored("xyzvwrst"))


@pytest.mark.parametrize(
    ("one", "other", "option"),
    [
        (LogMel(rate=16000), LogMel(), "rate"),
        (LogMel(bands=32), LogMel(), "bands"),
        (LogMel(high=3000.0), LogMel(), "high"),
        (LogMel(floor_db=-80.0), LogMel(), "floor_db"),
        (ComplexSTFT(power=0.3), ComplexSTFT(), "power"),
        (ComplexSTFT(hop=64), ComplexSTFT(), "hop"),
        (Image(dequantise=True), Image(), "dequantise"),
    ],
)
def test_sides_whose_coordinates_mean_different_things_are_refused(one, other, option):
    a, b = Gaussian(modality=one), Gaussian(modality=other)
    with pytest.raises(FlowportError, match=rf"source\.modality\.{option}=.* and target\.modality\.{option}=.* differ"):
        check_modalities(a, b)
    check_modalities(a, a)
    check_modalities(a, Gaussian(modality=Plane()))
