"""Residual reward boosting of jointly Gaussian ends: c_{k+1} = c + ρ² c_k, and S1 c at the end (THEORY 4.4)."""

import math
from functools import partial

import pytest
import torch

from flowport.distribution import Gaussian
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.residual_reward import ResidualReward, cross_entropy
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP
from flowport.problem import BridgeProblem
from flowport.run.boost import distance
from flowport.sampling.grid import UniformGrid
from flowport.types import Condition
from tests.laws.tilts import F64, Affine, Scaled

C, RHO, M1, S1 = 1.5, 0.6, 1.0, 0.49
S10 = (1 - RHO**2) * S1
STARTS = Gaussian(event_shape=[1], mean=[2.0], covariance=[[0.25]])
PROBLEM = BridgeProblem(STARTS, [1.0], [[M1]], [[math.sqrt(S1)]], [0.0], [C], correlation=RHO)
X = torch.linspace(-6, 9, 3001, dtype=F64)


def results(total):
    """The law of all results where every start's law is tilted by total · x: mean and density on the grid."""
    given = PROBLEM.tilt(total / C, STARTS.mean[None])[0]
    spread = given.covariances[0] + PROBLEM.gain @ STARTS.covariance.double() @ PROBLEM.gain.mT
    law = torch.distributions.Normal(given.mean[0], spread[0].sqrt())
    return float(given.mean), law.log_prob(X).exp()


def learnt(total):
    """Slope of the residual a x + b that cross-entropy on all results, not on a sample of them, finds."""
    weight = torch.cat([results(0.0)[1], results(total)[1]])
    achieved, x = torch.tensor([0.0, 1.0]).repeat_interleave(len(X)), X.repeat(2)
    value = C * x - (C * M1 + C**2 * S1 / 2)
    line = torch.zeros(2, dtype=F64, requires_grad=True)
    search = torch.optim.LBFGS(
        [line], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss():
        search.zero_grad()
        found = cross_entropy(line[0] * x + line[1], value, achieved, weight)
        found.backward()
        return found

    search.step(loss)
    return line.detach().tolist()


def test_rounds_add_up_to_the_tilt_of_all_results():
    total, found = C, []
    for _ in range(10):
        total += learnt(total)[0]
        found.append(total)
    assert found[:3] == pytest.approx([2.04, 2.2344, 2.304384], abs=1e-4)
    assert found[-1] == pytest.approx(C / (1 - RHO**2), abs=1e-4)
    assert results(C)[0] - M1 == pytest.approx(S10 * C), "one tilt for every start moves less"
    assert results(found[-1])[0] - M1 == pytest.approx(S1 * C, abs=1e-4)
    assert learnt(found[-1]) == pytest.approx([0, 0], abs=1e-4), "at rest with log Z as well"


def test_a_tilt_upon_a_tilt_shifts_every_start_alike_and_leaves_the_interaction():
    """The rounds' fields stacked as a run stacks them: E[x1 | x0] moves by S_{1|0} c at the end of all rounds, which is
    S1 c, and neither the slope in x0 nor Var(x1 | x0), so not −slope/Var, the precision's off-diagonal, change."""
    discretisation, field = ConsistentDiscretisation(UniformGrid(12)), PROBLEM.base
    laws = [moments(discretisation, field)]
    for share in (1, RHO**2 / (1 - RHO**2)):  # C, then all that the rounds add to it
        field = TiltedField(field, Scaled(PROBLEM.base, PROBLEM.tilted(1.0), share))
        laws.append(moments(discretisation, field))
    (mean, slope, variance), one, all_rounds = laws
    for law, shift in ((one, S10 * C), (all_rounds, S1 * C)):
        assert law[0] - mean == pytest.approx(shift, rel=0.05), "twelve steps"
        assert law[1:] == pytest.approx((slope, variance), rel=1e-6)
    assert (all_rounds[0] - mean) / (one[0] - mean) == pytest.approx(S1 / S10, rel=1e-6)


def moments(discretisation, field):
    """(E[x1 | x0 = 0], slope of E[x1 | x0], Var(x1 | x0)) of a chain whose steps are affine."""
    none = torch.zeros(len(discretisation.noise_schedule(field).steps), dtype=F64)
    (low, variance), (high, same) = (
        Affine.of(discretisation, field, x0).moments(none, none, x0, 0.0) for x0 in (0.0, 1.0)
    )
    assert same == pytest.approx(variance)
    return low, high - low, variance


def fitted(base, tuned, c, **options):
    reward = ResidualReward(partial(MLP, width=16, depth=2), **options)
    reward.check(Gaussian(event_shape=list(base.shape[1:])), Gaussian(event_shape=list(base.shape[1:])))
    entropy = reward.fit(base, tuned, lambda x: x @ torch.tensor(c), torch.Generator().manual_seed(1))
    return reward, entropy


@pytest.mark.parametrize("share", [0.64, 1.0])
def test_the_learnt_residual_is_what_the_results_lack(share):
    """Results N(share · c, I) of the base N(0, I) lack (1 − share) cᵀx: nothing where they have it all."""
    c = [1.0, -0.5]
    z = torch.randn(8192, 2, generator=torch.Generator().manual_seed(0))
    reward, _ = fitted(z, z + share * torch.tensor(c), c, steps=200)
    f = reward.value(z, Condition()).double()
    slope = torch.linalg.lstsq(torch.cat([z, torch.ones(len(z), 1)], 1).double(), f).solution
    torch.testing.assert_close(slope[:2], (1 - share) * torch.tensor(c, dtype=F64), atol=0.12, rtol=0)
    assert float(f.var() - slope[:2].square().sum()) < 0.04, "and it is no more than a line"


def test_a_classifier_that_only_knows_its_rows_by_heart_promises_little():
    """Equal laws in many dimensions, few points: nothing is to be learnt, and held-out rows know it."""
    z = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    reward, entropy = fitted(z[0], z[1], [0.0] * 32, steps=200)
    fresh = torch.randn(512, 32, generator=torch.Generator().manual_seed(2))
    said = reward.value(fresh, Condition()).std()
    assert said < 0.3 < 1 < said / reward.scale.clamp_min(1e-3) and entropy < math.log(2) + 0.1


def test_distance_to_the_tilt_of_all_results_by_hand():
    """Base results 0 and 1 weigh 1/4 and 3/4 in the tilt by x log 3."""
    base = torch.tensor([0.0, 1.0]).repeat_interleave(16)[:, None]
    few = distance(base[15:17], torch.ones(2, 1), lambda x: x[:, 0] * math.log(3))
    assert few["tilted_withheld"] == "unreliable: 2 effective samples of 2" and "gap" not in few
    numbers = distance(base, torch.ones(32, 1), lambda x: x[:, 0] * math.log(3))
    spread, halves = math.sqrt(3 / 16), 1 - 0.75 + 0.75 / 2 - (1 - 0.75 - 0.25 * 1.5)  # rows .625 and -.125, half each
    assert numbers == pytest.approx(
        {
            "scaled_reward": math.log(3),
            "scaled_reward_se": 0.0,
            "scaled_base_reward": math.log(3) / 2,
            "scaled_base_reward_se": math.log(3) / 2 / math.sqrt(31),
            "scaled_tilted_reward": 0.75 * math.log(3),
            "scaled_tilted_reward_se": 0.75 * math.log(3) / 2 / math.sqrt(31),
            "effective": 25.6,
            "gap": 0.25 / spread,
            "gap_se": halves / 2 / math.sqrt(15) / math.sqrt(2) / spread,
        },
        rel=1e-5,
        abs=1e-9,
    )


def test_two_standard_errors_of_the_distance_cover_the_truth():
    """λr = .7 x on N(0, 1), tuned results N(.4, 1): the tilt N(.7, 1) has mean λr .49, and lies .3 from them."""
    truth, inside = {"scaled_tilted_reward": 0.49, "scaled_reward": 0.28, "gap": -0.3}, dict[str, int]()
    for seed in range(200):
        base, own = torch.randn(2, 512, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
        numbers = distance(base, 0.6 * base + 0.8 * own + 0.4, lambda x: 0.7 * x[:, 0])
        for name, true in truth.items():
            value = numbers[name] if name != "gap" else -numbers[name]
            inside[name] = inside.get(name, 0) + (abs(value - true) <= 2 * numbers[f"{name}_se"])
    assert all(170 <= count < 200 for count in inside.values()), inside
