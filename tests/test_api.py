"""The front door from Python: fit, translate, sample, score, likelihood, fine-tune, save, load, solve, couple."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import flowport as fp
from flowport.errors import FlowportError

X1 = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)) * 0.5 + torch.tensor([1.0, -1.0])


@pytest.fixture(scope="module")
def noise() -> fp.Flow:
    return fp.fit(fp.Gaussian(2), X1, steps=2000, progress=False, device="cpu")


def test_a_flow_between_tensors_reaches_the_target(capfd: pytest.CaptureFixture[str]) -> None:
    x0 = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) * 2 + 3
    flow = fp.fit(x0, X1, steps=400, progress=False, device="cpu")
    assert "coupling=exact" in capfd.readouterr().err
    y = flow.translate(x0)
    assert torch.allclose(y.mean(0), X1.mean(0), atol=0.15)
    assert torch.allclose(y.std(0), X1.std(0), atol=0.15)
    assert flow.translate(x0[:5], trajectory=True, steps=7).shape == (8, 5, 2)
    back = flow.translate(y, backward=True, solver="rk4")
    assert float((back - x0).square().mean()) < 0.1
    assert flow.velocity(x0[:3], 0.5).shape == (3, 2)
    with pytest.raises(FlowportError, match="score needs a score"):
        flow.score(x0[:3], 0.5)
    with pytest.raises(FlowportError, match="this flow takes"):
        flow.translate(torch.zeros(3, 4))


def test_from_noise_there_is_a_score_a_likelihood_and_an_sde(noise: fp.Flow) -> None:
    for volatility in ("zero", "memoryless"):
        made = noise.sample(1000, volatility=volatility)
        assert torch.allclose(made.mean(0), X1.mean(0), atol=0.06)
        assert torch.allclose(made.std(0), X1.std(0), atol=0.06)
    x = torch.tensor([[1.0, -1.0], [1.5, -0.5]])
    exact = torch.distributions.Normal(torch.tensor([1.0, -1.0]), 0.5).log_prob(x).sum(1)
    assert torch.allclose(noise.log_prob(x), exact, atol=0.3)
    # α = 1 − t and β = t: p_t is N(t m, (1 − t)² + t²/4), whose score is linear.
    score = -(x - 0.5 * torch.tensor([1.0, -1.0])) / (0.25 + 0.25 * 0.25)
    assert torch.allclose(noise.score(x, 0.5), score, atol=0.4)


def test_a_saved_flow_is_the_same_and_needs_no_data(noise: fp.Flow, tmp_path: Path) -> None:
    noise.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "flow.safetensors"}
    again = fp.load(tmp_path)
    x = torch.randn(10, 2)
    assert torch.equal(again.translate(x), noise.translate(x))
    assert torch.equal(again.sample(5), noise.sample(5))


def test_a_tilt_by_a_linear_reward_shifts_a_gaussian(noise: fp.Flow, tmp_path: Path) -> None:
    # N(m, s²) tilted by e^{λ x} is N(m + λ s², s²): here the shift is 2 · 0.25 in the first coordinate.
    tuned = fp.finetune(noise, reward=lambda x: x[:, 0], strength=2.0, steps=300, progress=False, device="cpu")
    shift = tuned.sample(2000).mean(0) - noise.sample(2000).mean(0)
    assert torch.allclose(shift, torch.tensor([0.5, 0.0]), atol=0.12)
    tuned.save(tmp_path)
    x = torch.randn(10, 2)
    assert torch.equal(fp.load(tmp_path).translate(x), tuned.translate(x))


@pytest.mark.parametrize("key", ["field", "modality", "class_names", "noise_source"])
def test_a_config_that_was_edited_by_hand_is_refused(noise: fp.Flow, tmp_path: Path, key: str) -> None:
    noise.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for value in (None, 3):
        edited = {k: v for k, v in config.items() if k != key} | ({} if value is None else {key: value})
        (tmp_path / "config.json").write_text(json.dumps(edited))
        if key == "noise_source" and value == 3:
            continue
        with pytest.raises(FlowportError, match="describes no flow"):
            fp.load(tmp_path)


@pytest.mark.parametrize("adapter", ["control", "full", "low_rank", fp.ControlAdapter])
def test_a_fine_tuned_flow_is_saved_whatever_its_adapter(noise: fp.Flow, tmp_path: Path, adapter: Any) -> None:
    if adapter == "low_rank":
        pytest.importorskip("peft")
    options = {"steps": 3, "starts": 16, "progress": False, "device": "cpu"}
    once = fp.finetune(noise, reward=lambda x: x[:, 0], adapter=adapter, **options)
    twice = fp.finetune(once, reward=lambda x: x[:, 1], **options)
    twice.save(tmp_path)
    again, x = fp.load(tmp_path), torch.randn(10, 2)
    assert torch.equal(again.translate(x), twice.translate(x))
    assert not torch.equal(again.translate(x), noise.translate(x))


def test_a_run_folder_is_loaded_and_saved_again(trained: Path, tmp_path: Path) -> None:
    flow, x = fp.load(trained), torch.randn(10, 2)
    flow.save(tmp_path / "flow")
    assert torch.equal(fp.load(tmp_path / "flow").translate(x), flow.translate(x))


def test_classes_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    for name, shade in (("dark", 30), ("light", 220)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(10):
            picture = np.random.default_rng(k).integers(shade - 20, shade + 20, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{k}.png")
    target = fp.ImageFolder(str(tmp_path / "pictures"), size=8)
    words = {"conditioning": "target_label", "network": partial(fp.PatchUNet, width=8), "steps": 2, "batch": 4}
    flow = fp.fit(fp.Gaussian((3, 8, 8)), target, **words, progress=False, device="cpu")
    assert flow.class_names == ("dark", "light")
    flow.save(tmp_path / "flow")
    again, x = fp.load(tmp_path / "flow"), torch.randn(2, 3, 8, 8)
    assert again.class_names == ("dark", "light")
    assert torch.equal(again.translate(x, label="light", steps=2), flow.translate(x, label=1, steps=2))
    with pytest.raises(FlowportError, match="label=grey is no class of this flow: dark, light"):
        again.translate(x, label="grey")


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([x, t[:, None]], 1))


def test_an_own_network_and_path_are_given_again_when_loaded(tmp_path: Path) -> None:
    path = (lambda t: torch.cos(torch.pi / 2 * t), lambda t: torch.sin(torch.pi / 2 * t))
    flow = fp.fit(fp.Gaussian(2), X1, network=Own(), path=path, steps=3, progress=False, device="cpu")
    flow.save(tmp_path)
    with pytest.raises(FlowportError, match=r"fp.load\(folder, network=…\)"):
        fp.load(tmp_path)
    with pytest.raises(FlowportError, match=r"fp.load\(folder, path=…\)"):
        fp.load(tmp_path, network=Own())
    again = fp.load(tmp_path, network=Own(), path=flow.field.path)
    x = torch.randn(4, 2)
    assert torch.equal(again.velocity(x, 0.3), flow.velocity(x, 0.3))


def test_any_velocity_is_solved_and_any_batch_is_coupled() -> None:
    x = torch.randn(6, 3)
    for solver in ("dopri5", "rk4", "heun"):
        end = fp.solve(lambda x, t: -x, x, solver=solver)
        assert torch.allclose(end, x * torch.exp(torch.tensor(-1.0)), atol=1e-3)
    turned = x.roll(1, 0)  # no involution: i and j cannot be exchanged
    found = fp.couple(x, turned)
    assert found.cost == pytest.approx(0, abs=1e-9)
    assert torch.equal(x[found.i], turned[found.j])
    with pytest.raises(FlowportError, match="coupling=nonsense does not exist: choose"):
        fp.couple(x, x, coupling="nonsense")


def test_names_are_completed_and_unknown_ones_are_told() -> None:
    assert {"fit", "Gaussian", "LinearPath", "Heun"} <= set(dir(fp))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fp.nonsense


def test_a_folder_of_two_kinds_is_refused_and_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(FlowportError, match="holds no pictures, recordings or shapes"):
        fp.fit(tmp_path, X1)
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.png").touch()
    with pytest.raises(FlowportError, match="holds recordings and pictures: give a file, or a folder of one kind"):
        fp.fit(tmp_path, X1)
