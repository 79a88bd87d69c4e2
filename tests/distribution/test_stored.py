"""Stored data: order, splits, classes, sizes; the embedded datasets."""

import pytest
import torch

from flowport.distribution import MNIST, Digits, Silhouettes, Stored
from flowport.distribution.packaged import fitted
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError
from flowport.modality import Image, Plane
from flowport.randomness import Randomness

R = Randomness(3)
DATA = [Digits(), Digits(size=28, pad=4), MNIST(size=16, crop=4), MNIST(), Silhouettes(size=16), Silhouettes()]


def test_positions_are_a_pure_function_and_epochs_are_permutations():
    data = Digits()
    whole = data.positions(1390, 30, R)
    assert torch.equal(whole, torch.cat([data.positions(1390, 4, R), data.positions(1394, 26, R)]))
    for epoch in range(3):
        order = data.positions(epoch * data.size, data.size, R)
        assert torch.equal(order.sort().values, torch.arange(data.size))
    assert not torch.equal(data.positions(0, 50, R), data.positions(data.size, 50, R))
    assert not torch.equal(data.positions(0, 50, R.under("source")), data.positions(0, 50, R.under("target")))
    three = data.positions(0, 3 * data.size, R)
    assert (three.bincount() == 3).all()


@pytest.mark.parametrize("data", DATA)
def test_splits_are_disjoint_complete_and_stratified(data):
    together = torch.cat(list(data.splits.values())).sort().values
    assert torch.equal(together, torch.arange(len(data.raw)))
    share = data.labels.bincount() / len(data.labels)
    for name, index in data.splits.items():
        own = data.labels[index].bincount(minlength=data.classes)
        slack = 40 if data.name == "silhouettes" else 1.01  # copies travel together
        assert (own - share * len(index)).abs().max() <= slack, name
    assert torch.equal(stratified_split(50, 5, 5)["test"], stratified_split(50, 5, 5)["test"])


@pytest.mark.parametrize("data", DATA)
def test_stored_contract(data):
    a = data.items(5, 12, R)
    assert a.x.shape == (12, *data.event_shape)
    assert a.x.dtype == torch.float32
    assert -1 <= float(a.x.min()) < 0 < float(a.x.max()) <= 1
    assert torch.equal(a.label, data.labels[data.index[a.id]])
    assert torch.equal(a.x, data.draw(a.id, None).x)
    test = data.split("test")
    assert type(test) is type(data)
    assert (test.part, test.size) == ("test", len(data.splits["test"]))
    assert data.part == "train"
    every = test.every(10**6, R)
    assert torch.equal(every.id, torch.arange(test.size))
    assert torch.equal(test.modality.decode(every.x), test.raw[test.index])
    assert len(test.every(7, R)) == 7
    assert len(test.sample(9, R.generator("s"))) == 9
    moved = data.to("cpu")
    assert torch.equal(moved.items(5, 12, R).x, a.x)


def test_sizes_of_the_parts():
    assert [len(Digits().splits[k]) for k in ("train", "validation", "test")] == [1400, 100, 297]
    assert [len(MNIST().splits[k]) for k in ("train", "validation", "test")] == [3800, 200, 1000]
    sizes = [len(Silhouettes().splits[k]) for k in ("train", "validation", "test")]
    assert sum(sizes) == 10_000
    assert sizes[0] > 7800


def test_copies_of_silhouettes_never_straddle_parts():
    data = Silhouettes()
    part = torch.empty(10_000, dtype=torch.long)
    for k, index in enumerate(data.splits.values()):
        part[index] = k
    _, group = data.raw.flatten(1).unique(dim=0, return_inverse=True)
    assert len(group.unique()) == 9716
    low = torch.full((9716,), 9).scatter_reduce(0, group, part, "amin")
    high = torch.full((9716,), -1).scatter_reduce(0, group, part, "amax")
    assert torch.equal(low, high)


def test_of_class_gives_the_wanted_classes_evenly():
    data = Digits(part="test")
    wanted = torch.arange(10).repeat_interleave(70)[torch.randperm(700, generator=R.generator("p"))]
    sample = data.of_class(wanted, R.generator("matched"))
    assert torch.equal(sample.label, wanted)
    own = data.labels[data.index]
    used = sample.id.bincount(minlength=data.size)
    for c in range(10):
        times = used[own == c]
        assert int(times.max() - times.min()) <= 1
    assert not torch.equal(sample.id, data.of_class(wanted, R.generator("other")).id)
    with pytest.raises(FlowportError, match="no item of class 10"):
        data.of_class(torch.tensor([1, 10]), R.generator("matched"))


def test_resizing_keeps_the_mean_and_the_layout():
    # the antialiasing filter is normalised at the border, so that only shapes that touch it change their mean
    for data, small, slack in (
        (MNIST(), MNIST(size=14), 0.1),
        (Digits(), Digits(size=16), 0.1),
        (Silhouettes(), Silhouettes(size=7), 2.0),
    ):
        means = [d.raw.float().mean((1, 2, 3)) for d in (data, small)]
        assert (means[0] - means[1]).abs().max() < 8
        assert abs(float((means[0] - means[1]).mean())) < slack
    flat = torch.full((2, 1, 28, 28), 77, dtype=torch.uint8)
    assert (fitted("x", flat, 16, 4) == 77).all()
    assert torch.equal(MNIST(size=20, crop=4).raw, MNIST().raw[:, :, 4:24, 4:24])
    padded = Digits(size=28, pad=4).raw
    assert (padded[:, :, :4] == 0).all()
    assert torch.equal(padded[:, :, 4:24, 4:24], Digits(size=20).raw)
    assert int(Digits().raw.max()) == 255


def test_augmentation_follows_the_position_and_leaves_evaluation_alone():
    data = Digits(size=16, modality=Image(shift=0.5, rotation=4.0, scale=0.04, shear=0.04))
    a = data.items(0, 8, R)
    assert torch.equal(a.x, data.items(0, 8, R).x)
    plain = data.draw(a.id, None).x
    assert not torch.equal(a.x, plain)
    assert float((a.x - plain).abs().mean()) < 0.25
    assert torch.equal(data.every(8, R).x, Digits(size=16).every(8, R).x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Digits(part="dev"), "no split called 'dev'"),
        (lambda: Digits(size=0), "digits.size is 0"),
        (lambda: Digits(size=8, pad=4), "digits.pad 4"),
        (lambda: MNIST(crop=14), "mnist.crop is 14"),
        (lambda: Silhouettes(crop=-1), "silhouettes.crop is -1"),
        (lambda: Digits().split("dev"), "no split called 'dev'"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(FlowportError, match=words):
        make()


def test_a_missing_package_names_the_extra(monkeypatch):
    from importlib import metadata

    from flowport.distribution import mnist, silhouettes

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    mnist._load.cache_clear()
    silhouettes._load.cache_clear()
    with pytest.raises(FlowportError, match=r"pip install 'flowport\[embedded-data\]'"):
        MNIST()
    with pytest.raises(FlowportError, match="animal-shape-mnist"):
        Silhouettes()
    monkeypatch.undo()
    assert MNIST().size == 3800


def test_the_silhouettes_file_cannot_run_code(tmp_path):
    import gzip
    import pickle
    from os import system

    from flowport.distribution.silhouettes import arrays

    class Evil:
        def __reduce__(self):
            return system, (f"touch {tmp_path}/pwned",)

    with gzip.open(tmp_path / "evil.gz", "wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(FlowportError, match="only numpy arrays"):
        arrays(tmp_path / "evil.gz")
    assert not (tmp_path / "pwned").exists()


def test_some_of_a_sorted_split_hold_every_class_in_proportion():
    raw, labels = torch.arange(60.0)[:, None].expand(-1, 2), torch.arange(60) // 20
    sorted_by_class = Stored("sorted", raw, labels, Plane(), {"train": torch.arange(60)}, classes=3)
    some = sorted_by_class.every(9, Randomness(0))
    assert some.label.bincount().tolist() == [3, 3, 3] and some.id.diff().gt(0).all()
    for n in (60, 100):
        assert torch.equal(sorted_by_class.every(n, Randomness(0)).x, raw)
