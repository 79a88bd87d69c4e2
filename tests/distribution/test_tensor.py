"""The user's own file: what is understood and what is refused, in one sentence each."""

import numpy as np
import pytest
import torch

from flowport.distribution import MNIST, Gaussian, Mixture, Moons, TensorFile
from flowport.distribution.base import Stored
from flowport.errors import FlowportError
from flowport.modality import FloatImage, Image, Modality, Plane
from flowport.randomness import Randomness

R = Randomness(1)
POINTS = torch.randn(40, 3, generator=R.generator("points"))
BYTES = torch.randint(256, (30, 3, 5, 6), generator=R.generator("bytes"), dtype=torch.uint8)


def whole(data):
    """All items of all parts in the file's order."""
    parts = [data.split(k) for k in ("train", "validation", "test")]
    x = torch.cat([p.every(10**6, R).x for p in parts])
    return x[torch.cat([p.index for p in parts]).argsort()]


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
def test_points_from_every_kind_of_file(tmp_path, suffix):
    path = str(tmp_path / f"a.{suffix}")
    {
        "npy": lambda: np.save(path, POINTS.numpy()),
        "npz": lambda: np.savez(path, x=POINTS.numpy()),
        "pt": lambda: torch.save(POINTS, path),
    }[suffix]()
    data = TensorFile(path)
    assert isinstance(data.modality, Plane)
    assert data.event_shape == (3,)
    assert [len(data.split(k).index) for k in ("train", "validation", "test")] == [32, 4, 4]
    assert torch.equal(whole(data), POINTS)
    assert isinstance(data.split("test"), Stored)


def test_images(tmp_path):
    path = str(tmp_path / "a.npy")
    np.save(path, BYTES.numpy())
    data = TensorFile(path)
    assert isinstance(data.modality, Image)
    assert torch.equal(data.modality.decode(whole(data)), BYTES)
    np.save(path, BYTES[:, 0].numpy())
    assert TensorFile(path).event_shape == (1, 5, 6)
    np.save(path, BYTES.numpy() / 100)
    kept = TensorFile(path)
    assert isinstance(kept.modality, FloatImage)
    torch.testing.assert_close(whole(kept), BYTES / 100)


def test_labels(tmp_path):
    path, y = str(tmp_path / "a.npz"), np.arange(40) % 4
    np.savez(path, points=POINTS.numpy(), y=y)
    data = TensorFile(path)
    assert data.classes == 4
    assert torch.equal(data.every(40, R).label, torch.from_numpy(y)[data.index])
    assert (data.split("test").every(9, R).label.bincount() == 1).all()
    np.savez(path, a=POINTS.numpy(), b=POINTS.numpy() * 2, angle=POINTS[:, :2].numpy())
    other = TensorFile(path, key="b", label_key="angle")
    assert (other.classes, other.label_width) == (0, 2)
    torch.testing.assert_close(other.every(9, R).x[:, :2], other.every(9, R).label * 2)
    torch.save({"data": POINTS, "label": torch.from_numpy(y)}, tmp_path / "a.pt")
    assert TensorFile(str(tmp_path / "a.pt")).classes == 4


class Cloud(Modality):
    def encode(self, raw, generator):
        return raw.float()

    def decode(self, x):
        return x

    def render(self, rows, path, unrelated=()):
        return Plane().render(rows, path)


def test_any_shape_with_a_modality(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((12, 7, 3)))
    assert TensorFile(str(tmp_path / "a.npy"), modality=Cloud()).event_shape == (7, 3)


def bad(value):
    points = POINTS.numpy().copy()
    points[5, 1], points[9] = value, value
    return points


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (bad(np.nan), "4 NaN or infinite values in 2 of 40 rows, the first in row 5"),
        (bad(np.inf), "the first in row 5"),
        (np.zeros((0, 2)), "empty array"),
        (np.zeros((20, 0)), "empty array"),
        (np.zeros(20), r"\(20,\).*allowed are points \(N, d\)"),
        (np.float64(3.0), "empty array|allowed"),
        (np.zeros((20, 3, 4)), "allowed are points"),
        (np.zeros((20, 5, 6, 3), dtype=np.uint8), "channels first"),
        (np.zeros((9, 2)), "9 items; at least 10"),
        (np.zeros((20, 2), dtype=complex), "complex128"),
        (np.array([["a"] * 3] * 20), "no array of numbers"),
        (np.array([[{}]] * 20), "pickled"),
    ],
)
def test_arrays_that_are_refused(tmp_path, array, words):
    path = str(tmp_path / "mine.npy")
    np.save(path, array, allow_pickle=True)
    with pytest.raises(FlowportError, match=words) as raised:
        TensorFile(path)
    assert "mine.npy" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_refused(tmp_path):
    def refused(words, path, **options):
        with pytest.raises(FlowportError, match=words):
            TensorFile(str(tmp_path / path), **options)

    refused("which is not a file", "absent.npy")
    refused("must end in .npy, .npz, .pt", "a.csv")
    for name in ("junk.npy", "junk.npz", "junk.pt"):
        (tmp_path / name).write_bytes(b"junk, not data")
        refused("cannot be read: it is damaged or holds pickled", name)
    torch.save({"x": Plane()}, tmp_path / "code.pt")
    refused("pickled Python objects", "code.pt")
    torch.save({"x": "words"}, tmp_path / "words.pt")
    refused("no array of numbers", "words.pt")
    np.savez(tmp_path / "two.npz", a=POINTS.numpy(), b=POINTS.numpy())
    refused("holds a, b; key is None", "two.npz")
    refused("key is 'c'", "two.npz", key="c")
    refused("label_key is 'z'", "two.npz", key="a", label_key="z")
    np.savez(tmp_path / "short.npz", x=POINTS.numpy(), y=np.zeros(7, dtype=int))
    refused("40 items but labels of shape", "short.npz")
    np.savez(tmp_path / "negative.npz", x=POINTS.numpy(), y=-np.ones(40, dtype=int))
    refused("classes must be", "negative.npz")
    np.savez(tmp_path / "nan.npz", x=POINTS.numpy(), y=np.full(40, np.nan))
    refused("labels in .* NaN", "nan.npz")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(mean=[1, 2, 3]), "mean has 3 numbers"),
        (lambda: Gaussian(covariance=[[1, 2], [2, 1]]), "positive definite"),
        (lambda: Gaussian(covariance=[[1, 0.5], [0.1, 1]]), "symmetric"),
        (lambda: Gaussian(covariance=0), "variance 0"),
        (lambda: Gaussian(covariance=[1, 1, 1]), "lists 3 variances"),
        (lambda: Gaussian(covariance=[[1.0]]), "must be 2 x 2"),
        (lambda: Gaussian(covariance=[[[1.0]]]), "3 axes"),
        (lambda: Gaussian(mean="zero"), "mean is 'zero'"),
        (lambda: Gaussian(mean=float("nan")), "finite"),
        (lambda: Gaussian(event_shape=[0]), "event_shape is"),
        (lambda: Gaussian(dtype="float16"), "float32 or float64"),
        (lambda: Mixture([1, 1], [[0, 0]], 1.0), "weights is"),
        (lambda: Mixture([1, -1], [[0, 0], [1, 1]], 1.0), "weights is"),
        (lambda: Mixture([1], [0.0], 1.0), "means has the shape"),
        (lambda: Mixture([1, 1], [[0, 0], [1, 1]], [1, 2, 3]), "covariances has the shape"),
        (lambda: Mixture([1, 1], [[0, 0], [1, 1]], [1, -2]), "positive definite"),
        (lambda: Moons(noise=-1.0), "noise is -1"),
        (lambda: Moons().draw(torch.arange(3), None), "a law, not a set"),
        (lambda: Moons().of_class(torch.arange(2), R.generator("x")), "cannot draw points of a wanted class"),
        (lambda: Stored("toy", POINTS, None, Plane(), {"train": torch.arange(0)}), "train split of toy is empty"),
        (lambda: Stored("toy", POINTS, torch.zeros(3), Plane(), {"train": torch.arange(4)}), "3 labels"),
        (lambda: MNIST(modality=Image(scale=1.5)), "modality.scale"),
    ],
)
def test_parameters_that_are_refused(make, words):
    with pytest.raises(FlowportError, match=words):
        make()
