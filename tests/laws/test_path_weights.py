"""Path weights are exact for any control: the hard mixture's tilt from base paths and from wrongly controlled ones."""

import math

import pytest
import torch

from flowport.finetuning import path_weights
from flowport.finetuning.adapter import Adapter
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import PathWeighted
from flowport.finetuning.method.base import Rollout
from flowport.finetuning.method.path_weighted import weights
from flowport.finetuning.tilted_field import TiltedField
from flowport.sampling.grid import UniformGrid
from flowport.types import Condition
from tests.laws.tilts import F64, from_noise, mixture

WEIGHTS = [0.4, 0.3, 0.2, 0.1]
MEANS = torch.tensor([[-2, -1], [1.5, -1.5], [-0.5, 2], [2.5, 1.5]], dtype=F64)
AXES = [(0.6, 0.3, 0.5), (0.5, 0.25, -0.4), (0.7, 0.3, 1.2), (0.35, 0.35, 0.0)]
C = torch.tensor([0.5, 0.4], dtype=F64)


def covariances():
    found = []
    for a, b, angle in AXES:
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)
        found.append(turn @ torch.diag(torch.tensor([a * a, b * b], dtype=F64)) @ turn.T)
    return torch.stack(found)


class Wrong(Adapter):
    """G = max(t, h) ½ (½ − x₂, tanh x₁), which has nothing to do with the reward."""

    needs_base = False

    def velocity(self, x, t, condition, base, gains):
        return gains.eta[:, None] * self.tilt(x, t, condition, base, gains)

    def tilt(self, x, t, condition, base, gains):
        return 0.5 * gains.beta[:, None] * torch.stack([0.5 - x[:, 1], torch.tanh(x[:, 0])], 1)


@pytest.mark.parametrize("controlled", [False, True])
def test_weighted_paths_have_the_tilted_weights_of_the_modes(controlled):
    n, s = 30_000, covariances()
    base = from_noise(mixture(WEIGHTS, MEANS, s))
    generator = torch.Generator().manual_seed(0)
    control = TiltedField(base, Wrong()) if controlled else None
    start = torch.randn(n, 2, dtype=F64, generator=generator)
    paths = roll_out(ConsistentDiscretisation(UniformGrid(40)), base, start, Condition(), generator, control)
    inverse = (-paths.log_ratio).exp()
    assert float(inverse.mean()) == pytest.approx(1, abs=0.02)
    assert (float(inverse.std()) > 0.3) == controlled
    end = paths.states[-1]
    weight = (end @ C - paths.log_ratio).softmax(0)
    wanted = (torch.tensor(WEIGHTS, dtype=F64).log() + MEANS @ C + 0.5 * (C @ s @ C)).softmax(0)
    law = torch.distributions.MultivariateNormal(MEANS, s)
    tilted = (law.log_prob(end[:, None]) + torch.tensor(WEIGHTS, dtype=F64).log()).softmax(1)
    found = weight @ tilted
    assert float((found - wanted).abs().max()) <= 0.012
    ess = float(1 / weight.square().sum() / n)
    assert 0.3 < ess < 0.45


def test_the_log_ratio_is_exact_along_the_paths_of_the_base_too():
    """E_P[dQ/dP] = 1, and E_P[(dQ/dP) f] is the mean of f over driven paths; the base's paths are not driven."""
    n, base = 8000, from_noise(mixture(WEIGHTS, MEANS, covariances()))
    control, discretisation = TiltedField(base, Wrong()), ConsistentDiscretisation(UniformGrid(16))
    start = torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(5))

    def walked(**options):
        return roll_out(discretisation, base, start, Condition(), torch.Generator().manual_seed(0), **options)

    along, driven, alone = walked(control=control, driven=False), walked(control=control), walked()
    assert torch.equal(along.states, alone.states) and not torch.equal(along.states, driven.states)
    ratio = along.log_ratio.exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03) and float(ratio.std()) > 0.3
    end, weighted = driven.states[-1].mean(0), (ratio[:, None] * along.states[-1]).mean(0)
    assert torch.allclose(end, weighted, atol=0.07) and float((end - alone.states[-1].mean(0)).abs().max()) > 0.1
    last = walked(control=control, driven=False, ends_only=True)
    assert torch.equal(last.states[-1], along.states[-1]) and torch.equal(last.log_ratio, along.log_ratio)
    assert len(last.states) == 1


def test_a_replay_is_weighted_at_the_strength_that_its_newest_collection_reached():
    reward, ratio = (torch.randn(2, 6, dtype=F64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    x = torch.zeros(6, 1, dtype=F64)
    old, new = (
        Rollout(x, x, r, s, None, {"scale": torch.tensor(a, dtype=F64), "temper": torch.tensor(b, dtype=F64)})
        for r, s, a, b in zip(reward, ratio, (0.2, 0.7), (1.0, 0.5), strict=True)
    )
    a = 0.7 * reward - ratio
    found = weights([old.without_record, new], groups=2)
    for k, logits in enumerate((a[0], 0.5 * a[1])):
        by_start = torch.cat([part.exp() / part.exp().sum() / 2 for part in logits.split(3)])
        assert torch.allclose(found[k], by_start, rtol=1e-12)


def test_collections_of_another_size_are_left_out_of_the_replay():
    """As after a resume with another number of starts."""
    field = TiltedField(from_noise(mixture(WEIGHTS, MEANS, covariances())), Wrong())
    method, one = PathWeighted(UniformGrid(4), late=None, batch=16), torch.tensor(1.0, dtype=F64)
    points = torch.randn(20, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).split([12, 8])
    old, new = (Rollout(x, x, x[:, 0], x[:, 1], None, {"scale": one, "temper": one}) for x in points)
    both, newest = (
        method.loss(field, replay, torch.Generator().manual_seed(1)).terms for replay in ([old, new], [new])
    )
    assert torch.equal(both, newest)


def test_the_lean_adjoint_of_base_paths_is_the_gradient_of_the_end_by_the_start():
    """With the noise held fixed a path is a function of its start: a_0 = −∇ r(x_K(x_0)), on a field that bends."""
    base, discretisation = from_noise(mixture(WEIGHTS, MEANS, covariances())), ConsistentDiscretisation(UniformGrid(12))
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(64, 2, dtype=F64, generator=generator)
    paths = roll_out(discretisation, base, start, Condition(), generator)
    x = first = start.clone().requires_grad_()
    for k, t, h, variance in discretisation.noise_schedule(base).steps:
        mean, _ = discretisation.step(base, x, t, h, variance, Condition())
        x = mean + (paths.states[k + 1] - mean).detach()  # the noise that was drawn
    torch.testing.assert_close(x.detach(), paths.states[-1])
    (slope,) = torch.autograd.grad((x.square() @ C).sum(), first)
    adjoint = lean_adjoint(discretisation, base, paths.states, Condition(), -2 * C * paths.states[-1])
    torch.testing.assert_close(-adjoint[0], slope)


def test_the_reached_strength_is_where_the_log_ratio_takes_the_reward_away() -> None:
    """With S = r/2 the weights e^{a r − S} are even at a = 1/2 alone, so that no other a has the effective size 1."""
    reward = torch.linspace(-3, 3, 50, dtype=torch.float64)
    scale, temper = path_weights.annealed_strength(reward, reward / 2, 1, 0.999999)
    assert float(scale) == pytest.approx(0.5)
    assert float(temper) == 1
