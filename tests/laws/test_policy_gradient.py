"""The policy gradient against the gradient of E[λr] − kl · KL by recursion of moments."""

import pytest
import torch

from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import PolicyGradient, Rollout
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward import QuadraticReward
from flowport.sampling.grid import UniformGrid
from tests.laws.problems import PROBLEMS, C, at, collected, noise
from tests.laws.tilts import F64, Affine, Line, Table, Tabled


def objective_of(chain, gk, c, q, kl, states_given):
    """E[c x_K − q x_K²/2] − kl E Σ h s²G²/2 of G = g + k x, by recursion of moments."""
    mean, variance = gk.new_zeros(()), gk.new_ones(())
    spent = gk.new_zeros(())
    for a, b, h, s2 in zip(chain.a, chain.b, chain.h, chain.s2, strict=True):
        m, v = (mean.detach(), variance.detach()) if states_given else (mean, variance)
        spent = spent + h * s2 / 2 * ((gk[0] + gk[1] * m) ** 2 + gk[1] ** 2 * v)
        factor = a + h * s2 * gk[1]
        mean, variance = factor * mean + b + h * s2 * gk[0], factor**2 * variance + h * s2
    return c * mean - q / 2 * (mean**2 + variance) - kl * spent


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kl", [0.0, 1.0, 2.5])
def test_the_policy_gradient_is_that_of_reward_less_divergence(kl, published):
    """published: of the divergence at given states."""
    base, reward = noise(), QuadraticReward([0.8], 1.1)
    field = TiltedField(base, Line(0.4, -0.3))
    made = PolicyGradient(UniformGrid(6), clip=None, kl=kl, published=published, batch=None)
    chain = Affine.of(made.discretisation, base)
    gk = field.adapter.gk.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(objective_of(chain, gk, 0.8, 1.1, kl, published), gk)
    rollout, _ = collected(made, field, "noise", 40_000, reward)
    terms = made.loss(field, [rollout], torch.Generator()).terms.view(5, 20, -1).mean((0, 2))
    parts = torch.stack([torch.autograd.grad(-v, field.adapter.gk, retain_graph=True)[0] for v in terms])
    error = parts.std(0) / 20**0.5
    assert bool(((parts.mean(0) - wanted).abs() <= 4 * error).all()), (parts.mean(0), wanted, error)
    assert bool((error < 0.15 * wanted.abs().max()).all())


def test_at_the_tilt_no_path_has_an_advantage():
    """Given its start, λr − S is the same for all paths of the optimal chain: the tilt at kl = 1 has a gradient of
    exactly zero."""
    base = PROBLEMS["bridge"][0]
    made = PolicyGradient(UniformGrid(10), group=8, clip=None, batch=None)
    affine, chain = (
        Affine.of(made.discretisation, base, 2.4),
        ConsistentDiscretisation(UniformGrid(10)).noise_schedule(base),
    )
    field = Tabled(base, Table(chain.times[:-1], *affine.optimum(C, 0, True), chain.variances))
    rollout, _ = collected(made, field, "bridge", 20)
    assert float(made.advantage(field, rollout).abs().max()) < 1e-9
    assert float(rollout.reward.std()) > 0.3
    for other in (
        PolicyGradient(UniformGrid(10), group=8, kl=0.5),
        PolicyGradient(UniformGrid(10), group=8, published=True),
    ):
        assert float(other.advantage(field, rollout).abs().max()) > 0.3


def test_advantages_are_against_the_others_of_the_same_start():
    field = at("bridge", 0.0)
    made = PolicyGradient(UniformGrid(6), group=2)
    rollout, _ = collected(made, field, "bridge", 12)
    one, other = rollout.reward.view(12, 2).unbind(1)
    torch.testing.assert_close(made.advantage(field, rollout).view(12, 2)[:, 0], one - other)
    unit = PolicyGradient(UniformGrid(6), group=2, normalise=True).advantage(field, rollout).view(12, 2)
    torch.testing.assert_close(unit.abs(), torch.full((12, 2), 2**0.5, dtype=F64))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_on_policy_all_ratios_are_one(problem):
    field, made = at(problem, 0.7), PolicyGradient(UniformGrid(6), group=4, batch=None)
    rollout, _ = collected(made, field, problem, 30)
    terms = made.loss(field, [rollout], torch.Generator()).terms.view(5, -1)
    torch.testing.assert_close(terms, -5 * made.advantage(field, rollout).expand(5, -1))


def test_clipped_ratios_never_gain_more_and_are_nothing_on_policy():
    field = TiltedField(noise(), Line(0.4, -0.3))
    clipped, free = (PolicyGradient(UniformGrid(6), clip=clip, batch=None) for clip in (0.2, None))
    rollout, _ = collected(clipped, field, "noise", 500)
    on, off = [
        [m.loss(f, [rollout], torch.Generator()).terms for m in (clipped, free)]
        for f in (field, TiltedField(noise(), Line(1.0, 0.3)))
    ]
    torch.testing.assert_close(*on)
    assert bool((off[0] >= off[1]).all()) and float((off[0] > off[1] + 1e-6).double().mean()) > 0.05
    advantage = clipped.advantage(field, rollout).repeat(5)
    assert bool((off[0] >= -5 * torch.where(advantage > 0, 1.2 * advantage, 0.8 * advantage) - 1e-9).all())


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 100.1, -1e-9])
def test_equal_rewards_give_no_advantage(value):
    """And what rounding leaves of their mean is not divided by what it leaves of their spread."""
    method, field, n = PolicyGradient(normalise=True, published=True), TiltedField(noise(), Line(0.0, 0.0)), 16
    rollout = Rollout(torch.zeros(n, 2), torch.zeros(n, 2), torch.full((n,), value), torch.zeros(n))
    assert float(method.advantage(field, rollout).abs().max()) == 0
    small = torch.linspace(0, 1e-9, n)
    found = method.advantage(field, Rollout(torch.zeros(n, 2), torch.zeros(n, 2), small, torch.zeros(n)))
    assert float(found.std()) == pytest.approx(1, rel=0.2), "a small reward is a reward"
