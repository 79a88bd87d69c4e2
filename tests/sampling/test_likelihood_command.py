"""Likelihood of a run from the command line, and what dequantisation measures."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from flowport.capabilities import NoNoise
from flowport.distribution.base import Density
from flowport.errors import FlowportError
from flowport.modality import Image, Plane
from flowport.path import LinearPath
from flowport.prediction import VelocityPrediction
from flowport.run.log_likelihood import log_likelihood
from flowport.run.run_folder import RunFolder
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver import RK4
from flowport.types import Sample
from tests import runs
from tests.laws.oracles import COUPLED, Composition
from tests.run.test_finetune import composed

NOISE = torch.Generator().manual_seed(0)
IMAGES = {"centred": Image(), "dequantised": Image(dequantise=True)}


class Cube(Density):
    """Uniform in [low, high]^d."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        raise NotImplementedError

    def score(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        inside = ((x >= self.low) & (x <= self.high)).flatten(1).all(1)
        return torch.where(inside, -x[0].numel() * math.log(self.high - self.low), -math.inf)


@pytest.mark.parametrize("name", IMAGES)
def test_a_uniform_law_of_the_cube_of_pixels_has_eight_bits(name: str) -> None:
    """Through a field that stands still."""
    modality = IMAGES[name]
    low, high = (-1.0, 1.0) if modality.dequantise else (-128 / 127.5, 128 / 127.5)
    raw = torch.randint(256, (5, 1, 3, 4), generator=NOISE, dtype=torch.uint8)
    raw[0, 0, 0, :2] = torch.tensor([0, 255])
    x, volume = modality.dequantised(raw, NOISE)
    still = Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(COUPLED["gaussian"])
    still.forward = lambda x, t, condition: torch.zeros_like(x)  # type: ignore[method-assign]
    model = Likelihood(still, Cube(low, high), RK4(), UniformGrid(2), ExactDivergence())
    found, _ = model.log_prob(Sample(x), NOISE)
    bits = -(found + volume) / (12 * math.log(2))
    torch.testing.assert_close(bits, torch.full((5,), 8.0))


@pytest.mark.parametrize("name", IMAGES)
def test_every_byte_fills_its_cell_and_no_other(name: str) -> None:
    modality = IMAGES[name]
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(400, 1, 16, 16).contiguous()
    x, volume = modality.dequantised(raw, NOISE)
    assert torch.equal(modality.decode(x), raw)
    width = math.exp(volume / 256)
    rest = (x.double() - modality.encode(raw, None).double()).flatten()
    assert abs(float(rest.mean())) < width / 400
    assert float(rest.min()) < -0.499 * width < 0.499 * width < float(rest.max()) <= 0.5001 * width
    assert float(rest.std()) == pytest.approx(width / math.sqrt(12), rel=0.01)


def test_the_bound_of_dequantisation_is_the_mass_of_a_byte_where_the_law_is_flat() -> None:
    normal = torch.distributions.Normal(0.2, 0.5)
    raw = torch.tensor([0, 90, 153, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 64, 64)
    for modality in IMAGES.values():
        x, volume = modality.dequantised(raw, NOISE)
        assert volume is not None
        width = math.exp(volume / 4096)
        centre = modality.encode(raw, None)[:, 0, 0, 0]
        mass = normal.cdf(centre + width / 2) - normal.cdf(centre - width / 2)
        bound = normal.log_prob(x).flatten(1).mean(1) + math.log(width)
        torch.testing.assert_close(bound, mass.log(), rtol=0, atol=5e-4)


def test_what_has_no_levels_is_measured_as_it_is() -> None:
    points = torch.randn(3, 2, generator=NOISE)
    x, volume = Plane().dequantised(points, NOISE)
    assert torch.equal(x, points) and volume is None
    with pytest.raises(FlowportError, match="no bytes of 256 levels"):
        Image(size=(4, 4)).dequantised(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), NOISE)


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_the_command_gives_one_number_by_two_solvers(tmp_path: Path, capfd: Any) -> None:
    runs.run(tmp_path / "run", "experiment=gaussian_to_mixture")
    found = {}
    for words in ("solver=dopri5", "solver=rk4 grid=uniform grid.steps=40"):
        out = tmp_path / words.split("=")[1].split()[0]
        said = runs.here(
            capfd,
            "likelihood.py",
            f"run={tmp_path}/run",
            *words.split(),
            "divergence=exact",
            "evaluation_items=50",
            f"hydra.run.dir={out}",
        )
        assert said.code == 0, said.err
        found[words] = metrics_of(out)
    one, other = found.values()
    assert one["test/nll"] == pytest.approx(other["test/nll"], abs=0.01)
    assert one["test/nll_floor"] == other["test/nll_floor"] < one["test/nll"]
    assert one["nfe"] != other["nfe"] == 160
    assert "test/bits_per_dim" not in one and one["test/nll_se"] > 0


def test_bits_of_bytes_are_the_log_of_their_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the density of encoded points is 1, an item of D bytes has the probability of its cell, 127.5^−D."""
    monkeypatch.setattr(Likelihood, "log_prob", lambda self, points, generator: (torch.zeros(len(points)), 7))
    words = ["experiment=none", "distribution@source=gaussian", "source.event_shape=[1,8,8]", "network=patch_unet"]
    words += ["distribution@target=digits", "coupling=independent", "network.width=8", "metric=[sliced_wasserstein]"]
    runs.run(tmp_path / "run", *words, "trainer.max_steps=1", "evaluation_items=4")
    overrides = composed("likelihood", f"run={tmp_path}/run", "threads=1")
    found = log_likelihood(RunFolder(tmp_path / "run"), overrides, RunFolder(tmp_path / "out"))
    assert found["test/bits_per_dim"] == pytest.approx(math.log2(127.5), rel=1e-6)
    assert found["test/nll"] == pytest.approx(64 * math.log(127.5), rel=1e-6) and found["nfe"] == 7
