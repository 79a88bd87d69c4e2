"""DiffusionNFT and advantage-weighted matching: one collection's minimum, and where they rest, in one dimension."""

from functools import cache

import pytest
import torch

from flowport.errors import FlowportError
from flowport.finetuning.forward_process import advantage, drawn_points
from flowport.finetuning.method import AdvantageWeighted, DiffusionNFT, Rollout
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward import LinearReward, Reward
from flowport.sampling.grid import UniformGrid
from tests.laws.oracles import line
from tests.laws.problems import REST, S2, C, at, collected, noise, problems
from tests.laws.tilts import F64, Line, from_noise, vertex

pytestmark = pytest.mark.slow
DEVIATION = {"noise": C * S2**0.5, "bridge": C * REST**0.5}
"""Standard deviation of the reward C x over results, of one start on the bridge."""
NUMBER, PATHS = {"noise": 3000, "bridge": 30}, 100


@cache
def rolled(problem, own, n, seed=1):
    """A collection of strength ``own``, the same for both methods and all their options."""
    return collected(nft(1.0, 5.0, 0.0), at(problem, own), problem, n, seed=seed)[0]


def learnt(method, problem, own, n=None):
    """The strength at which the loss of a collection of strength ``own`` is least; it is a parabola in the strength."""
    rollout = rolled(problem, own, n or NUMBER[problem])
    fields = [at(problem, a) for a in (0.0, 1.0, 2.0)]
    return vertex([method.loss(f, [rollout], torch.Generator().manual_seed(7)).mean for f in fields])


def nft(beta, spread, kl, **options):
    return DiffusionNFT(UniformGrid(20), beta, spread, kl, noisings=16, batch=20_000, paths=PATHS, **options)


@problems
@pytest.mark.parametrize(("beta", "spread", "kl"), [(1.0, 5.0, 0.0), (0.5, 5.0, 0.0), (1.0, 5.0, 1.0), (0.5, 6.0, 2.0)])
def test_one_round_of_nft_is_an_euler_step_of_the_tilt(problem, beta, spread, kl):
    """D of strength a is a times one unit u, and Cov(λr, x1 | x_t) = u: β² (a − a_old) = (1 − kl a) β/Z."""
    z = spread * DEVIATION[problem]
    for own in (0.0, 1.0):
        wanted = (own * beta + 1 / z) / (beta + kl / z)
        assert learnt(nft(beta, spread, kl), problem, own) == pytest.approx(wanted, abs=0.05 / beta)


@problems
@pytest.mark.parametrize("kl", [0.5, 1.0, 2.0])
def test_nft_rests_at_the_tilt_of_its_kl(problem, kl):
    assert learnt(nft(1.0, 5.0, kl), problem, 1 / kl) == pytest.approx(1 / kl, abs=0.05)


def test_the_clip_of_nft_shortens_the_step_by_the_share_that_it_leaves():
    """Stein: E[clip(A) rest | x_t] = P(|A| < Z | x_t) u for Gaussians; P(|A| < Z) = 0.6827 at one deviation."""
    z = DEVIATION["noise"]
    assert learnt(nft(1.0, 1.0, 0.0), "noise", 0.0, 10_000) == pytest.approx(0.6827 / z, abs=0.03)


class Sign(Reward):
    """±1 by the side of 0."""

    differentiable = False

    def forward(self, x1, condition):
        return x1[:, 0].sign()


def test_good_and_bad_results_of_two_points_attract_and_repel_as_published():
    """Of x1 = ±1 with ρ in {0, 1}: v* = v_old + (2/β) α (v⁺_data − v_old), α = P(+1 | x_t), so that E[x1 | x_t] moves
    by (2/β) α (1 − (2α − 1)) for the end point 1 of the good ones."""
    base, beta = from_noise(line([(1, 0, -1, 1, 1e-4, 0), (1, 0, 1, 1, 1e-4, 0)])), 0.8
    made, field = nft(beta, 1.0, 0.0), TiltedField(base, Line())
    rollout, _ = collected(made, field, "noise", 10_000, Sign())
    for k in (3, 5, 7):
        x, rest = rollout["states"][k][:, 0], rollout["rest"][k][:, 0]
        gained, deviation = advantage(field, rollout, made.paths)
        assert float((gained.abs() / deviation).sub(1).abs().max()) < 0.05, "ρ is 0 or 1"
        t = rollout["times"][k].expand(len(x))
        share = (1 + base.endpoints(x[:, None], t, rollout.condition(False))[1][:, 0]) / 2
        wanted, found = 2 * share * (2 - 2 * share) / beta, gained / deviation * rest / beta
        for feature in (torch.ones_like(x), x, (x.abs() < 0.5).to(x)):
            error = ((found - wanted) * feature).std() / len(x) ** 0.5
            assert abs(float(((found - wanted) * feature).mean())) < 4 * float(error)
            assert float((wanted * feature.abs()).mean()) > 20 * float(error)


def pull(problem, kl, own):
    """∫ 2 (kl a − 1) u²/spread² dt, u = Var(x1 | x_t) C: the slope of the loss in the strength a, on policy."""
    t = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    assert problem == "noise"
    rest, spread = S2 * (1 - t) ** 2 / ((1 - t) ** 2 + t**2 * S2), (1 - t) ** 2 / ((1 - t) ** 2 + t**2)
    return float((2 * (kl * own - 1) * (rest * C) ** 2 / spread).mean())


def slope(method, problem, own, n, seed=1):
    """Derivative of the loss in the strength, at the strength of the collection."""
    rollout = rolled(problem, own, n, seed)
    low, high = (
        float(method.loss(at(problem, own + e), [rollout], torch.Generator().manual_seed(7)).mean)
        for e in (-1e-4, 1e-4)
    )
    return (high - low) / 2e-4


def awm(kl, clip=0.2, **options):
    return AdvantageWeighted(UniformGrid(20), clip, kl, noisings=16, batch=20_000, paths=PATHS, **options)


@pytest.mark.parametrize(("kl", "own"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 2.0), (2.0, 1.0)])
def test_the_gradient_of_advantage_weighted_matching_is_that_of_its_tilt(kl, own):
    found = [slope(awm(kl), "noise", own, 3000, seed) for seed in (1, 2, 3)]
    assert sum(found) / 3 == pytest.approx(pull("noise", kl, own), abs=0.03)


@pytest.mark.parametrize("kl", [0.5, 1.0])
def test_it_rests_at_the_tilt_of_every_start_of_a_bridge(kl):
    rest, under, over = (slope(awm(kl), "bridge", a, NUMBER["bridge"]) for a in (1 / kl, 0.0, 2 / kl))
    assert under < 0 < over and abs(rest) < 0.1 * (over - under)


def test_normalised_advantages_do_not_know_the_strength():
    wanted = pull("noise", 0.0, 0.0) / DEVIATION["noise"]
    found = [slope(awm(0.0, normalise=True), "noise", 0.0, 3000, seed) for seed in (1, 2, 3)]
    assert sum(found) / 3 == pytest.approx(wanted, abs=0.03)


def test_ratios_are_one_on_policy_and_their_clip_takes_no_more_than_it_says():
    field, free, clipped = at("noise", 0.5), awm(0.0, None), awm(0.0, 0.2)
    rollout, _ = collected(free, field, "noise", 500)
    on = free.loss(field, [rollout], torch.Generator().manual_seed(3)).terms
    points = drawn_points(field, rollout, free.batch, torch.Generator().manual_seed(3))
    gained, _ = advantage(field, rollout, free.paths)
    torch.testing.assert_close(on, -gained[points.row])
    far = [m.loss(at("noise", 3.0), [rollout], torch.Generator().manual_seed(3)).terms for m in (free, clipped)]
    assert bool((far[1] >= far[0] - 1e-9).all()) and float((far[1] > far[0] + 1e-6).double().mean()) > 0.05
    assert bool((far[1] >= -torch.where(on < 0, -1.2 * on, -0.8 * on) - 1e-9).all())


@pytest.mark.parametrize("value", [0.0, 0.3, 100.1])
@pytest.mark.parametrize("method", [nft(1.0, 5.0, 1.0), awm(1.0, normalise=True)])
def test_equal_rewards_move_nothing(method, value):
    rollout, _ = collected(method, at("noise", 0.0), "noise", 40)
    equal = Rollout(
        rollout.start, rollout.end, torch.full_like(rollout.reward, value), rollout.log_ratio, None, rollout.record
    )
    field = TiltedField(noise(), Line(0.0, 0.0))
    loss = method.loss(field, [equal], torch.Generator().manual_seed(0)).mean
    assert float(torch.autograd.grad(loss, field.adapter.gk)[0].abs().max()) < 1e-9


def test_numbers_out_of_range_are_refused():
    for make in (
        lambda: nft(0.0, 5.0, 1.0),
        lambda: nft(1.0, 5.0, -1.0),
        lambda: awm(-0.5),
        lambda: awm(1.0, clip=0.0),
    ):
        with pytest.raises(FlowportError, match=r"\.(beta|kl|clip)=.* is too small"):
            make()


def test_a_reward_without_a_gradient_is_served():
    for method in (nft(1.0, 5.0, 1.0), awm(1.0)):
        method.accept(noise(), Sign())
        method.accept(noise(), LinearReward([C]))
