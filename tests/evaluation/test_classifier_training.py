"""The judge: trained once, kept, found again, repaired, and never in the way of the caller's randomness."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import flowport.evaluation.classifier_training as judge
from flowport.distribution.base import Stored
from flowport.errors import FlowportError
from flowport.evaluation.classifier_training import RECIPE, content_hash, trained_classifier
from flowport.modality.base import Modality
from flowport.network import ImageClassifier, PointClassifier

QUICK = replace(RECIPE, steps=40, batch=32)


class Grey(Modality):
    """uint8 to [−1, 1], times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.factor * (raw.float() / 127.5 - 1)

    def decode(self, x: Tensor) -> Tensor:
        return ((x / self.factor + 1) * 127.5).round().to(torch.uint8)

    def render(self, rows: dict[str, Tensor], path: str, unrelated=()) -> Tensor:
        raise NotImplementedError


def stripes(n: int = 96, factor: float = 1.0, points: bool = False, seed: int = 0) -> tuple[Stored, Stored]:
    """Horizontal against vertical stripes with noise: two classes that a few steps can tell apart."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    phase = torch.randint(2, (n, 1, 1, 1), generator=g)
    down = ((torch.arange(8).view(1, 1, 8, 1) // 2 + phase) % 2).expand(n, 1, 8, 8)
    pattern = torch.where(labels.view(-1, 1, 1, 1) == 0, down, down.transpose(2, 3))
    raw = (200 * pattern + torch.randint(55, pattern.shape, generator=g)).to(torch.uint8)
    if points:
        raw = (100 * labels[:, None] + torch.randint(90, (n, 2), generator=g)).to(torch.uint8)
    splits = {"train": torch.arange(0, 2 * n // 3), "test": torch.arange(2 * n // 3, n)}
    train = Stored("stripes", raw, labels, Grey(factor), splits, "train", 2)
    return train, train.split("test")


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(judge, "_train", never)


@pytest.mark.parametrize(("points", "kind"), [(False, ImageClassifier), (True, PointClassifier)])
def test_it_learns_and_is_handed_over_frozen(tmp_path: Path, points: bool, kind: type) -> None:
    train, test = stripes(points=points)
    model, facts = trained_classifier(train, test, tmp_path, replace(QUICK, steps=60))
    assert isinstance(model, kind)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    right = (model(test.draw(torch.arange(len(test.index)), None).x).argmax(1) == test.labels[test.index]).double()
    assert facts["accuracy"] == right.mean().item()
    assert right.mean() > 0.9


def test_second_call_loads_the_same_bits_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, facts = trained_classifier(*stripes(), tmp_path, QUICK)
    forbid_training(monkeypatch)
    again, same = trained_classifier(*stripes(), tmp_path, QUICK)
    assert facts == same
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(first(x), again(x))
    assert sorted(p.suffix for p in tmp_path.iterdir()) in ([".lock", ".safetensors"], [".safetensors"])


def test_training_is_the_same_whatever_the_callers_seed_and_leaves_it_alone(tmp_path: Path) -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        model, _ = trained_classifier(*stripes(), tmp_path / str(seed), QUICK)
        assert torch.equal(torch.random.get_rng_state(), before)
        made.append(model.state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_it_trains_inside_inference_mode_and_autocast(tmp_path: Path) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        trained_classifier(*stripes(), tmp_path / "a", QUICK)
        inside, _ = trained_classifier(*stripes(), tmp_path / "a", QUICK)  # loaded there as well
    outside, _ = trained_classifier(*stripes(), tmp_path / "b", QUICK)
    for key, value in inside.state_dict().items():
        assert torch.equal(value, outside.state_dict()[key]), key
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    inside(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def _shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _anothers(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"accuracy": "0.5", "digest": "no"})


@pytest.mark.parametrize("damage", [_shortened, _bit_flipped, _emptied, _anothers])
def test_a_damaged_file_is_trained_anew(tmp_path: Path, damage: object) -> None:
    _, facts = trained_classifier(*stripes(), tmp_path, QUICK)
    path = tmp_path / f"{facts['hash']}.safetensors"
    good = {key: value.clone() for key, value in load_file(path).items()}  # load_file maps the file: keep a copy
    damage(path)  # type: ignore[operator]
    model, again = trained_classifier(*stripes(), tmp_path, QUICK)
    assert again == facts
    for key, value in model.state_dict().items():
        assert torch.equal(value, good[key]), key
    assert load_file(path).keys() == good.keys()


def test_an_unfinished_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(weights: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("flowport.cache.save_file", full_disk)
    with pytest.raises(OSError, match="disk full"):
        trained_classifier(*stripes(), tmp_path, QUICK)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_hash_names_data_labels_encoding_and_recipe() -> None:
    train, test = stripes()
    name = content_hash(train, test, QUICK)
    other_labels = Stored("stripes", train.raw, 1 - train.labels, Grey(), train.splits, "train", 2)
    other_test = Stored("stripes", train.raw, train.labels, Grey(), train.splits | {"test": torch.arange(9)}, "test", 2)
    names = [
        content_hash(*stripes(seed=1), QUICK),
        content_hash(*stripes(factor=0.5), QUICK),
        content_hash(*stripes(n=93), QUICK),
        content_hash(other_labels, test, QUICK),
        content_hash(train, other_test, QUICK),
        content_hash(train, test, replace(QUICK, steps=41)),
    ]
    assert len({name, *names}) == 7
    assert content_hash(*stripes(), QUICK) == name


def _ask(folder: str, answers: "multiprocessing.Queue[tuple[int, str, float]]", gate: object) -> None:
    torch.set_num_threads(1)
    count, real = [0], judge._train

    def counted(*args: object) -> object:
        count[0] += 1
        return real(*args)  # type: ignore[arg-type]

    judge._train = counted  # type: ignore[assignment]
    gate.wait()  # type: ignore[attr-defined]
    model, facts = trained_classifier(*stripes(), Path(folder), QUICK)
    answers.put((count[0], str(facts["hash"]), sum(v.double().sum().item() for v in model.state_dict().values())))


@pytest.mark.slow
def test_of_two_processes_that_ask_at_once_one_trains(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers, gate = context.Queue(), context.Barrier(2)
    workers = [context.Process(target=_ask, args=(str(tmp_path), answers, gate)) for _ in range(2)]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(trained for trained, _, _ in got) == 1
    assert got[0][1:] == got[1][1:]


def test_data_without_classes_or_of_odd_shape_are_refused(tmp_path: Path) -> None:
    train, test = stripes()
    bare = Stored("clouds", train.raw, None, Grey(), train.splits)
    with pytest.raises(FlowportError, match="clouds has none"):
        trained_classifier(bare, bare.split("test"), tmp_path, QUICK)
    flat = Stored("clouds", train.raw[:, 0], train.labels, Grey(), train.splits, "train", 2)
    with pytest.raises(FlowportError, match=r"\(8, 8\)"):
        trained_classifier(flat, flat.split("test"), tmp_path, QUICK)
    with pytest.raises(FlowportError, match="equal in training and test"):
        trained_classifier(train, stripes(points=True)[1], tmp_path, QUICK)
    assert not list(tmp_path.iterdir())
