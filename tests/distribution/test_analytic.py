"""Analytic laws: moments, densities, scores, labels, and the definitions of torchcfm derived again."""

import math

import numpy as np
import pytest
import torch

from flowport.distribution import Checkerboard, EightGaussians, Gaussian, Mixture, Moons, SCurve
from flowport.modality import Image, Plane
from flowport.randomness import Randomness

N = 40_000
ROOT = Randomness(7)
DENSITIES = [
    Gaussian(mean=[1.0, -0.5], covariance=[[1.0, 0.6], [0.6, 0.8]], dtype="float64"),
    Gaussian(mean=0.3, covariance=[0.5, 2.0], dtype="float64"),
    Mixture([1, 3], [[-1.5, 0], [1, 1]], [[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.6]]], dtype="float64"),
    EightGaussians(dtype="float64"),
]
LAWS = [*DENSITIES, Moons(), Moons(continuous_label=True), Checkerboard(), SCurve(), Gaussian(event_shape=[1, 4, 4])]


def generator(purpose="test"):
    return ROOT.generator(purpose)


def moments_agree(x, mean, covariance):
    """Sample mean and covariance within 4.5 standard errors, these estimated from the sample itself."""
    gap = x - mean
    products = gap[:, :, None] * gap[:, None, :]
    error_mean = x.std(0) / math.sqrt(len(x))
    error_cov = products.std(0) / math.sqrt(len(x))
    return bool((gap.mean(0).abs() < 4.5 * error_mean).all()) and bool(
        ((products.mean(0) - covariance).abs() < 4.5 * error_cov + 1e-12).all()
    )


def exact_moments(law):
    return law.components.mean(), law.components.covariance()


@pytest.mark.parametrize("law", DENSITIES)
def test_densities_have_their_moments(law):
    mean, covariance = exact_moments(law)
    x = law.sample(N, generator()).x
    assert moments_agree(x, mean, covariance)
    assert not moments_agree(x, mean, covariance * 1.1)
    assert not moments_agree(x + 0.1, mean, covariance)


@pytest.mark.parametrize("law", DENSITIES)
def test_density_integrates_to_one_and_score_is_its_gradient(law):
    axis = torch.linspace(-10, 10, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = law.log_prob(grid).exp()
    cell = (axis[1] - axis[0]) ** 2
    assert abs(float(p.sum() * cell) - 1) < 1e-9
    mean, _ = exact_moments(law)
    torch.testing.assert_close((p[:, None] * grid).sum(0) * cell, mean, atol=1e-8, rtol=0)
    x = law.sample(200, generator()).x.requires_grad_(True)
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(law.score(x.detach()), slope)


def test_gaussian_agrees_with_torch_and_with_its_mixture():
    law = DENSITIES[0]
    twin = torch.distributions.MultivariateNormal(law.mean, law.covariance)
    x = law.sample(50, generator()).x
    torch.testing.assert_close(law.log_prob(x), twin.log_prob(x))
    torch.testing.assert_close(law.components.log_prob(x), twin.log_prob(x))
    torch.testing.assert_close(law.components.score(x), law.score(x))


def test_gaussian_of_image_shape():
    law = Gaussian(mean=0.5, covariance=0.25, event_shape=[3, 4, 5])
    x = law.sample(2000, generator()).x
    assert x.shape == (2000, 3, 4, 5)
    assert isinstance(law.modality, Image)
    assert isinstance(Gaussian(event_shape=6).modality, Plane)
    assert abs(float(x.mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(x.numel())
    expected = torch.distributions.Normal(0.5, 0.5).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(law.log_prob(x), expected)
    torch.testing.assert_close(law.score(x), (0.5 - x) / 0.25)


@pytest.mark.parametrize(
    ("law", "standard"),
    [
        (Gaussian(), True),
        (Gaussian(mean=[0.0, 0.0], covariance=[[1.0, 0.0], [0.0, 1.0]]), True),
        (Gaussian(event_shape=[1, 16, 16]), True),
        (Gaussian(covariance=[1.0, 1.001]), False),
        (Gaussian(mean=0.01), False),
        (Gaussian(covariance=[[1.0, 0.1], [0.1, 1.0]]), False),
        (EightGaussians(), False),
    ],
)
def test_standard_gaussian_means_exactly_that(law, standard):
    assert law.standard_gaussian is standard


def test_mixture_labels_are_components_with_their_weights():
    law = Mixture([2, 1, 1], [[-50, 0], [0, 0], [50, 0]], [1.0, 2.0, 0.5])
    sample = law.sample(N, generator())
    torch.testing.assert_close(sample.label, (sample.x[:, 0] / 50).round().long() + 1)
    share = sample.label.bincount() / N
    assert (share - torch.tensor([0.5, 0.25, 0.25])).abs().max() < 4.5 * math.sqrt(0.25 / N)
    for k, variance in enumerate([1.0, 2.0, 0.5]):
        own = sample.x[sample.label == k]
        assert abs(float(own[:, 1].var()) / variance - 1) < 4.5 * math.sqrt(2 / len(own))


def test_mixture_reads_every_form_of_covariance_alike():
    means = [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]
    eye = [[0.5, 0.0], [0.0, 0.5]]
    forms = [0.5, [0.5] * 3, [[0.5, 0.5]] * 3, [eye] * 3]
    x = torch.randn(20, 2, generator=generator())
    values = [Mixture([1, 1, 1], means, form).log_prob(x) for form in forms]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_eight_gaussians_is_torchcfms():
    # torchcfm: MultivariateNormal(zeros, sqrt(0.1) I) takes a covariance; centres 5 (cos, sin) in this order
    law = EightGaussians(dtype="float64")
    r = 5 / math.sqrt(2)
    centres = [(5, 0), (-5, 0), (0, 5), (0, -5), (r, r), (r, -r), (-r, r), (-r, -r)]
    torch.testing.assert_close(law.components.means, torch.tensor(centres, dtype=torch.float64))
    sample = law.sample(N, generator())
    residual = sample.x - law.components.means[sample.label]
    assert abs(float(residual.var()) / math.sqrt(0.1) - 1) < 4.5 * math.sqrt(2 / (2 * N))
    assert (sample.label.bincount() / N - 1 / 8).abs().max() < 4.5 * math.sqrt(7 / 64 / N)
    assert law.classes == 8


def torchdyn_moons(n, noise):
    """generate_moons of torchdyn with another generator, then torchcfm's 3x − 1."""
    rng = np.random.Generator(np.random.PCG64(3))
    grid = np.linspace(0, np.pi, n // 2)
    outer = np.stack([np.cos(grid), np.sin(grid)], 1)
    inner = np.stack([1 - np.cos(grid), 1 - np.sin(grid) - 0.5], 1)
    return (np.concatenate([outer, inner]) + rng.random((n, 1)) * noise) * 3 - 1


def test_moons_is_torchcfms():
    law, reference = Moons(dtype="float64"), torch.from_numpy(torchdyn_moons(N, 0.2))
    sample = law.sample(N, generator())
    # exact: mean 3 (½, ¼) + 3 · 0.2 · ½ − 1
    assert moments_agree(sample.x, torch.tensor([0.8, 0.05], dtype=torch.float64), reference.T.cov())
    q = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, -0.8]], dtype=torch.float64):
        ours, theirs = sample.x @ direction, reference @ direction
        level = (ours[:, None] <= theirs.quantile(q)).double().mean(0)
        assert (level - q).abs().max() < 4.5 * math.sqrt(0.5 / N)
    moon = sample.label == 1
    assert abs(float(moon.double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(N)
    assert float(sample.x[~moon, 1].min()) >= -1
    assert float(sample.x[moon, 1].max()) <= 3 * (0.5 + 0.2) - 1


def test_moons_noise_moves_both_coordinates_alike():
    x = (Moons(dtype="float64").sample(500, generator()).x + 1) / 3
    quiet = (Moons(noise=0.0, dtype="float64").sample(500, generator()).x + 1) / 3
    gap = x - quiet
    torch.testing.assert_close(gap[:, 0], gap[:, 1])
    assert 0 <= float(gap.min()) < float(gap.max()) < 0.2
    on_arc = torch.minimum((quiet.norm(dim=1) - 1).abs(), ((quiet - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs())
    assert float(on_arc.max()) < 1e-9


def test_continuous_labels():
    moons = Moons(continuous_label=True)
    sample = moons.sample(20, generator())
    torch.testing.assert_close(sample.label, sample.x[:, :1])
    assert (moons.classes, moons.label_width) == (0, 1)
    curve = SCurve(noise=0.0, continuous_label=True).sample(20, generator())
    torch.testing.assert_close(curve.x[:, :1], curve.label.sin())


def test_checkerboard_fills_its_squares_evenly():
    law = Checkerboard(dtype="float64")
    sample = law.sample(N, generator())
    # FFJORD: x1 ~ U(−2, 2), x2 ~ U(0, 1) − 2 B + floor(x1) mod 2, times 2
    cell = (sample.x / 2).floor()
    assert ((cell[:, 0] % 2) == (cell[:, 1] % 2)).all()
    torch.testing.assert_close(law.squares[sample.label].double(), cell + 2)
    assert (sample.label.bincount() / N - 1 / 8).abs().max() < 4.5 * math.sqrt(7 / 64 / N)
    torch.testing.assert_close(law.log_prob(sample.x), torch.full((N,), -math.log(32), dtype=torch.float64))
    assert law.log_prob(torch.tensor([[-3.0, -1.0], [9.0, 9.0]])).tolist() == [-math.inf, -math.inf]
    assert Checkerboard(cells=3).classes == 5


def test_s_curve_is_scikit_learns():
    from sklearn.datasets import make_s_curve

    points, tau = make_s_curve(4000, noise=0.0, random_state=0)
    ours = SCurve(noise=0.0, dtype="float64").sample(N, generator())
    circle = ours.x[:, 0].square() + (ours.x[:, 1].abs() - 1).square()
    torch.testing.assert_close(circle, torch.ones_like(circle))
    q = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    theirs = torch.from_numpy(points[:, [0, 2]])
    for k in range(2):
        level = (ours.x[:, k, None] <= theirs[:, k].quantile(q)).double().mean(0)
        assert (level - q).abs().max() < 4.5 * math.sqrt(0.25 / 4000 + 0.25 / N)
    torch.testing.assert_close(ours.label, (ours.x[:, 1] <= 0).long())
    noisy = SCurve(noise=0.3, scale=3.0, dtype="float64").sample(N, generator()).x
    assert abs(float((noisy - 3 * ours.x).std()) - 0.3) < 0.01


@pytest.mark.parametrize("law", LAWS)
def test_contract(law):
    a = law.items(0, 16, ROOT.under("source"))
    assert a.x.shape == (16, *law.event_shape)
    assert torch.equal(a.x, law.items(0, 16, ROOT.under("source")).x)
    assert not torch.equal(a.x, law.items(0, 16, ROOT.under("target")).x)
    assert not torch.equal(a.x, law.items(16, 16, ROOT.under("source")).x)
    assert not torch.equal(a.x, law.every(16, ROOT.under("source")).x)
    assert law.size is None
    assert law.split("test") is law
    assert law.to("meta").device.type == "meta"
    assert torch.equal(law.to("cpu").items(0, 16, ROOT.under("source")).x, a.x)


@pytest.mark.parametrize("make", [Gaussian, EightGaussians, Moons, Checkerboard, SCurve])
def test_float64_throughout(make):
    for dtype in ("float64", torch.float64):
        assert make(dtype=dtype).sample(3, generator()).x.dtype == torch.float64
    assert make().sample(3, generator()).x.dtype == torch.float32
