"""The loss at the exact field is the conditional variance of its target, and its gradient there vanishes."""

import math

import pytest
import torch

from flowport.conditioning import SourceConditioning, Unconditional
from flowport.distribution import EightGaussians, Moons
from flowport.errors import member_name
from flowport.field import Field, LearnedField
from flowport.objective import FlowMatching, Loss
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import SignalToNoiseWeighting, UniformWeighting, Weighting
from flowport.path import BrownianBridge, LinearPath
from flowport.prediction import BridgePrediction, VelocityPrediction
from flowport.training.compose import compose
from flowport.types import Condition, Pair, Sample
from tests.laws.oracles import compositions, tensor

N = 40_000
M0, M1, S0, S1, C = 0.5, 1.5, 0.8, 0.6, 0.4  # coupled ends in one dimension; standard and free where x0 is the noise


class At(TimeSampler):
    def __init__(self, t):
        self.t = t

    def __call__(self, n, generator):
        return torch.full((n,), self.t)

    def density(self, t):
        return torch.ones_like(t)  # read by no weight here


def ends(c, seed=0):
    z = torch.randn(2, N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    free = type(c.role).__name__ == "SourceIsNoise"
    m0, s0, k = (0.0, 1.0, 0.0) if free else (M0, S0, C)
    x0 = m0 + math.sqrt(s0) * z[0]
    x1 = M1 + k / s0 * (x0 - m0) + math.sqrt(S1 - k * k / s0) * z[1]
    return (
        Pair(Sample(x0), Sample(x1)),
        tensor(m0, M1, 0),
        torch.diag(tensor(s0, S1, 1)) + k * torch.diag(tensor(1, 0), 1) + k * torch.diag(tensor(1, 0), -1),
    )


class Affine(Field):
    """output = intercept + slope · (x, x0), the best affine guess at time t, plus a perturbation of each row."""

    def __init__(self, c, capabilities, t, mean, covariance):
        super().__init__(c.path, c.prediction, SourceConditioning() if c.sees_source else Unconditional(), capabilities)
        k = c.path.coefficients(tensor(t))
        g, dg = (0 * k.alpha, 0 * k.alpha) if k.gamma is None else (k.gamma, k.dgamma)
        noise = k.alpha if k.gamma is None else g
        is_noise = tensor(1, 0, 0) if k.gamma is None else tensor(0, 0, 1)
        size = ((1.3 * noise).square() + (0.7 * k.beta).square()).sqrt()  # deviations of tests/zoo.py
        rows = {
            "v": [k.beta * is_noise - noise * tensor(0, 1, 0)],
            "edm": [(1.3 * noise * tensor(0, 1, 0) - 0.7**2 / 1.3 * k.beta * is_noise) / size],
            "velocity": [torch.cat([k.dalpha, k.dbeta, dg])],
            "target": [tensor(0, 1, 0)],
            "source": [tensor(1, 0, 0)],
            "score": [-is_noise / noise],
            "bridge": [torch.cat([k.dalpha, k.dbeta, dg]), tensor(0, 0, 1)],
        }
        wanted = torch.stack(rows[member_name(type(c.prediction), "prediction")])
        seen = torch.cat([k.alpha, k.beta, g])[None]
        if c.sees_source:
            seen = torch.cat([seen, tensor(1, 0, 0)[None]])
        self.gain = wanted @ covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T)
        self.rest = wanted @ mean - self.gain @ seen @ mean
        left = wanted - self.gain @ seen
        self.variance = float((left @ covariance @ left.T).diagonal().mean())
        self.push = torch.zeros(3, N, len(wanted), dtype=torch.float64, requires_grad=True)

    def forward(self, x, t, condition):
        seen = x if condition.source is None else torch.cat([x, condition.source], 1)
        return self.rest + seen @ self.gain.T + self.push[0] + self.push[1] * x + self.push[2] * seen[:, -1:]


@pytest.mark.parametrize("c", **compositions())
def test_loss_is_least_at_the_conditional_mean(c):
    """Five standard errors, one seed: the value is Var(y | seen), and no affine change of the field lowers it."""
    pair, mean, covariance = ends(c)
    oracle = c.field(c.joint("gaussian"))
    for t in (0.3, 0.8):
        drawn = float(c.prediction.times(c.path, torch.tensor([t]).double())[0])
        field = Affine(c, oracle.capabilities, drawn, mean, covariance)
        loss = FlowMatching(At(t), UniformWeighting()).loss(field, pair, torch.Generator().manual_seed(1)).per_sample
        error = float(loss.detach().std()) / math.sqrt(N)
        assert abs(float(loss.detach().mean()) - field.variance) < 5 * error + 1e-5 * (1 + field.variance)
        loss.sum().backward()
        slope = field.push.grad
        assert float(slope.abs().mean()) > 1e-6 or field.variance < 1e-6
        assert bool((slope.mean(1).abs() < 5 * slope.std(1) / math.sqrt(N) + 1e-5).all())


class Along(TimeSampler):
    """Every item a time of its own."""

    def __call__(self, n, generator):
        return torch.linspace(0.2, 0.6, n, dtype=torch.float64)

    def density(self, t):
        return torch.ones_like(t)


class Twice(Weighting):
    def __call__(self, t, field, density):
        return 3 * SignalToNoiseWeighting()(t, field, density)


def test_weighting_enters_linearly():
    c = compositions()["argvalues"][0]
    pair, mean, covariance = ends(c)
    field = Affine(c, c.field(c.joint("gaussian")).capabilities, 0.4, mean, covariance)
    losses = [
        FlowMatching(Along(), w).loss(field, pair, torch.Generator().manual_seed(1)).per_sample.detach()
        for w in (UniformWeighting(), SignalToNoiseWeighting(), Twice())
    ]
    t = Along()(N, None)
    torch.testing.assert_close(losses[1], (losses[0] * (t / (1 - t)) ** 2).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[2], 3 * losses[1])


def test_loss_is_the_mean_over_the_event_and_a_function_of_the_generator():
    class Zero(torch.nn.Module):
        def forward(self, x, t, condition: Condition):
            return torch.zeros_like(x)

    c = compositions()["argvalues"][0]
    field = LearnedField(Zero(), c.path, c.prediction, Unconditional(), c.field(c.joint("gaussian")).capabilities)
    x0, x1 = torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2) * torch.arange(1, 5)[:, None, None, None]
    objective = FlowMatching(At(0.5), UniformWeighting())
    found = objective.loss(field, Pair(Sample(x0), Sample(x1)), torch.Generator().manual_seed(0))
    assert found.per_sample.tolist() == [1, 4, 9, 16] and float(found.mean) == 7.5


class Push(torch.nn.Module):
    """The same output for every input: its gradient is that of the loss, number by number."""

    def __init__(self, heads):
        super().__init__()
        self.output = torch.nn.Parameter(torch.randn(6, heads * 2, 4, 3, generator=torch.Generator().manual_seed(8)))

    def forward(self, x, t, condition: Condition):
        return self.output


def masked(seed):
    draw = torch.Generator().manual_seed(seed)
    x, mask = torch.randn(6, 2, 4, 3, generator=draw), torch.rand(6, 2, 4, 3, generator=draw) < 0.6
    mask[0] = False  # one item is padding altogether
    return Sample(x, mask=mask)


@pytest.mark.parametrize(
    ("path", "prediction"), [(LinearPath(), VelocityPrediction()), (BrownianBridge(), BridgePrediction())]
)
@pytest.mark.parametrize("weighting", [UniformWeighting(), SignalToNoiseWeighting()])
def test_padding_adds_nothing_to_the_loss_and_the_rest_is_the_loss_without_a_mask(path, prediction, weighting):
    source, target = masked(0), masked(1)
    network = Push(prediction.heads)
    c = compositions()["argvalues"][0]
    field = LearnedField(network, path, prediction, Unconditional(), c.field(c.joint("gaussian")).capabilities)

    def loss(*sides):
        return FlowMatching(At(0.4), weighting).loss(field, Pair(*sides), torch.Generator().manual_seed(1))

    whole, both = loss(Sample(source.x), Sample(target.x)), loss(source, target)
    counted = torch.cat([source.mask & target.mask] * prediction.heads, 1)
    torch.testing.assert_close(both.mean, whole.terms[counted].mean())
    each = torch.stack(
        [terms[m].mean() if m.any() else torch.tensor(0.0) for terms, m in zip(whole.terms, counted, strict=True)]
    )
    torch.testing.assert_close(both.per_sample, each)
    (slope,) = torch.autograd.grad(both.mean, network.output)
    (free,) = torch.autograd.grad(whole.mean, network.output)
    assert int(slope[~counted].abs().max()) == 0
    torch.testing.assert_close(slope[counted], (free * counted.numel() / counted.sum())[counted])
    for sides, mask in (((source, Sample(target.x)), source.mask), ((Sample(source.x), target), target.mask)):
        torch.testing.assert_close(loss(*sides).mean, whole.terms[torch.cat([mask] * prediction.heads, 1)].mean())


def test_a_batch_of_nothing_but_padding_has_no_loss():
    terms = torch.ones(3, 2, 4, requires_grad=True)
    loss = Loss(terms, torch.zeros(3, 2, 4, dtype=torch.bool))
    loss.mean.backward()
    assert float(loss.mean.detach()) == 0 and float(terms.grad.abs().max()) == 0
    assert loss.per_sample.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("left", "right"), [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float64)]
)
def test_points_of_another_precision_than_the_network_are_trained_on(left, right):
    source, target = EightGaussians(dtype=left), Moons(dtype=right)
    module, data = compose(source, target)
    pair = data.train.at(0)
    assert (pair.source.x.dtype, pair.target.x.dtype) == (left, right)
    loss = module.objective.loss(module.field, pair, torch.Generator().manual_seed(0)).mean
    loss.backward()
    plain, data = compose(EightGaussians(), Moons())
    same = Pair(pair.source.each(torch.Tensor.float), pair.target.each(torch.Tensor.float))
    wanted = plain.objective.loss(plain.field, same, torch.Generator().manual_seed(0)).mean
    torch.testing.assert_close(loss.float(), wanted, rtol=1e-5, atol=1e-6)
