"""How kept networks are trained, and that their names outlive a change of the code around them."""

from math import cos, pi, prod
from pathlib import Path

import pytest
import torch

from flowport.cache import TrainingSettings, read_tensors, trained, write_atomically, write_tensors
from flowport.data.space import LatentSpace
from flowport.distribution import Gaussian, Stored
from flowport.evaluation.classifier_training import RECIPE, content_hash
from flowport.modality import Image
from tests.evaluation.test_classifier_training import stripes


def rate(share: float, first: float, last: float) -> float:
    """Half a cosine from first to last."""
    return last + (first - last) * (1 + cos(pi * share)) / 2


def test_without_a_gradient_weights_shrink_by_the_rates_of_one_cycle():
    """w ← (1 − rate_k decay) w: up from a 25th of the highest rate over the first 30 %, then down to a 10,000th of
    where it began."""
    model, recipe = torch.nn.Linear(3, 2).double().eval(), TrainingSettings(rate=0.2, decay=0.5, steps=21)
    before = [p.detach().clone() for p in model.parameters()]
    modes = []

    def loss() -> torch.Tensor:
        modes.append(model.training)
        return 0 * model(torch.ones(1, 3, dtype=torch.float64)).sum()

    assert trained(model, recipe, "nothing", loss) is model and not model.training
    top = 0.3 * 21 - 1
    rates = [
        rate(k / top, 0.2 / 25, 0.2) if k <= top else rate((k - top) / (20 - top), 0.2, 0.2 / 25e4) for k in range(21)
    ]
    assert modes == [True] * 21
    for p, first in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), first * prod(1 - 0.5 * r for r in rates), rtol=1e-9, atol=0)


def test_names_of_kept_networks_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever changes how one is trained raises the recipe's version and these; nobody else makes all train anew."""
    assert content_hash(*stripes(), RECIPE) == "cf0c62c011671c94"
    raw = (7 * torch.arange(12 * 64) % 256).to(torch.uint8).view(12, 1, 8, 8)
    ramps = Stored("ramps", raw, None, Image(), {"train": torch.arange(10), "test": torch.arange(10, 12)})
    monkeypatch.setattr("flowport.data.space.AUTOENCODERS", tmp_path)
    LatentSpace(channels=2, width=4, steps=1).enter(Gaussian(event_shape=[1, 8, 8]), ramps)
    assert [p.stem for p in tmp_path.glob("*.safetensors")] == ["f0e91e3bb6b76e09"]


def test_tensors_come_back_with_their_facts_and_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    path, tensors = (
        tmp_path / "new" / "file.safetensors",
        {"a": torch.arange(6.0).view(2, 3).mT, "b": torch.ones(2).int()},
    )
    write_tensors(path, tensors, {"error": 0.5, "name": "x"}, checksum=True)
    found = read_tensors(path)
    assert found is not None and found[1] == {"error": 0.5, "name": "x"}
    assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_tensors(path) is None
    path.write_bytes(content[: len(content) // 2])
    assert read_tensors(path) is None and read_tensors(tmp_path / "absent") is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    write_atomically(tmp_path / "file", lambda path: path.write_text("old"))
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "file", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]
