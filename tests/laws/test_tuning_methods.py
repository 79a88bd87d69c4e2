"""What the other reward fine-tuning methods reach, exactly or with a known bias, in one dimension."""

import math

import pytest
import torch

from flowport.finetuning.method import DRaFT, ReFL, RewardWeighted, TiltMatching
from flowport.finetuning.path_weights import best_of_divergence
from flowport.finetuning.renoising import control_energy
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward import LinearReward, QuadraticReward, Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Condition
from tests.laws.oracles import line
from tests.laws.problems import PROBLEMS, REST, S2, C, at, collected, drawn, noise, problems
from tests.laws.tilts import F64, Adapter, Line, Pull, Scaled, from_noise, vertex
from tests.zoo import TUNINGS, named


def learnt(method, rollout, fields):
    """The least loss over fields of strength 0, 1, 2, of which the loss is a parabola."""
    return vertex([method.loss(f, [rollout], torch.Generator().manual_seed(7)).mean for f in fields])


def strengths(problem):
    return [at(problem, a) for a in (0.0, 1.0, 2.0)]


class Shifted(Reward):
    """C x, and what no method may see: a constant and, where a field sees the start, any function of it."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x1, condition):
        term = 0 if condition.source is None else 3 * condition.source[:, 0].square()
        return C * x1[:, 0] + self.seen * (5 + term)


@problems
@pytest.mark.parametrize("make", **named([t for t in TUNINGS if t[0] != "draft"]))
def test_what_a_reward_says_of_the_start_alone_moves_nothing(make, problem):
    found = []
    for seen in (0.0, 1.0):
        method, field = make(), TiltedField(PROBLEMS[problem][0], Line(0.3, -0.2))
        rollout, _ = collected(method, field, problem, 12, Shifted(seen))
        loss = method.loss(field, [rollout], torch.Generator().manual_seed(2)).mean
        found.append(torch.autograd.grad(loss, field.adapter.gk)[0])
    assert bool(found[0].any())
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@problems
@pytest.mark.parametrize(("own", "temperature"), [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (1.0, 2.0)])
def test_one_round_of_weights_adds_the_tilt_of_its_temperature_and_the_next_overshoots(problem, own, temperature):
    made = RewardWeighted(UniformGrid(20), temperature, batch=8000, paths=250)
    rollout, _ = collected(made, at(problem, own), problem, 4000 if problem == "noise" else 16)
    assert learnt(made, rollout, strengths(problem)) == pytest.approx(own + 1 / temperature, abs=0.15)


def test_every_start_of_a_bridge_keeps_its_share():
    made = RewardWeighted(paths=8)
    field = at("bridge", 0.0)
    rollout, _ = collected(made, field, "bridge", 30)
    torch.testing.assert_close(made.weights(field, rollout).view(30, 8).sum(1), torch.full((30,), 1 / 30, dtype=F64))
    made = RewardWeighted(temperature=None, best_of=8)
    pair = drawn("bridge", 30)
    rollout, _ = made.collect(field, LinearReward([C]), 1.0, pair, torch.Generator().manual_seed(0))
    assert torch.equal(rollout.start, pair.source.x)


@pytest.mark.parametrize(("n", "mean"), [(2, 0.56419), (4, 1.02938)])
def test_best_of_n_is_an_order_statistic_within_its_budget(n, mean):
    """Of N(0, 1) and a growing reward: the density n φ Φ^{n−1}, whose KL to φ is the budget."""
    base = noise(0.0, 1.0)
    made = RewardWeighted(temperature=None, best_of=n)
    field = TiltedField(base, Scaled(base, base))
    rollout, _ = collected(made, field, "noise", 4000)
    assert float(rollout.end.mean()) == pytest.approx(mean, abs=4 * 0.83 / 4000**0.5)
    x = torch.linspace(-9, 9, 20_001, dtype=F64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    log_ratio = math.log(n) + (n - 1) * torch.special.log_ndtr(x)
    divergence = torch.trapezoid((normal.log_prob(x) + log_ratio).exp() * log_ratio, x)
    assert float(divergence) == pytest.approx(best_of_divergence(n), abs=1e-6)


@problems
def test_tilt_matching_reaches_the_tilt_of_a_linear_reward_and_stays(problem):
    made, a = TiltMatching(UniformGrid(20), stages=2, noisings=8, batch=4000, paths=4), 0.0
    for number, wanted in enumerate([0.5, 1.0, 1.0]):
        made.begin(number)
        rollout, facts = collected(made, at(problem, a), problem, 2000 if problem == "noise" else 500, seed=number)
        a = learnt(made, rollout, strengths(problem))
        assert a == pytest.approx(wanted, abs=0.08)
        assert float(facts["strength_share"]) == wanted


class Fitted(Adapter):
    """Least squares of what is wanted on 1, x and x² at every time of a rollout, linear in between."""

    def __init__(self, rollout):
        super().__init__()
        self.times = rollout["times"]
        x = rollout["states"]
        self.weights = torch.linalg.lstsq(torch.cat([torch.ones_like(x), x], 2), rollout["changes"]).solution[..., 0]

    def velocity(self, x, t, condition, base, gains):
        k = torch.searchsorted(self.times, t.contiguous()).clamp(1, len(self.times) - 1)
        share = (t - self.times[k - 1]) / (self.times[k] - self.times[k - 1])
        w = torch.lerp(self.weights[k - 1], self.weights[k], share[:, None])
        return w[:, :1] + w[:, 1:] * x


def test_the_error_of_tilt_matching_falls_with_its_stages():
    """c x − q x²/2: N(m, s²) becomes N((m + s²c)/(1 + s²q), s²/(1 + s²q)); Euler's rule in a is off by O(1/stages)."""
    base, reward = noise(), QuadraticReward([0.5], 2.0)
    mean, variance = (1 + S2 * 0.5) / (1 + 2 * S2), S2 / (1 + 2 * S2)
    errors = []
    for stages in (1, 4):
        made, field = TiltMatching(UniformGrid(10), stages=stages, noisings=12), TiltedField(base, Scaled(base, base))
        for number in range(stages + 1):  # the last collection shows the results
            made.begin(number)
            rollout, _ = collected(made, field, "noise", 8000, reward, seed=number)
            field = TiltedField(base, Fitted(rollout))
        errors.append((float(rollout.end.mean()) - mean, float(rollout.end.var()) - variance))
    assert all(abs(first) > 0.05 and abs(second) < abs(first) / 2.5 for first, second in zip(*errors, strict=True))


@pytest.mark.parametrize(("weight", "late"), [(4.0, 0.75), (8.0, 0.5)])
def test_refl_rests_where_reward_and_flow_matching_balance_whatever_the_spread(weight, late):
    """Of D = a spread² the loss is a² ∫ spread² dt − weight C a E[spread² | late], and ∫ spread² = 1/2."""
    made, base = ReFL(late=late, weight=weight), noise()
    rollout, _ = collected(made, at("noise", 0.0), "noise", 20_000)
    times = torch.arange(round(20 * late), 20, dtype=F64) / 20
    spread = ((1 - times) ** 2 / ((1 - times) ** 2 + times**2)).mean()
    found = learnt(made, rollout, [TiltedField(base, Pull(a)) for a in (0.0, 1.0, 2.0)])
    assert found == pytest.approx(weight * C * float(spread), abs=0.04)


@pytest.mark.parametrize("last", [1, 3, 6])
def test_draft_has_the_gradient_of_the_reward_through_its_last_steps(last):
    base = from_noise(line([(1, 0, -1, 1, 0.2, 0), (2, 0, 1, 1, 0.4, 0)]))
    field, reward = TiltedField(base, Line(0.3, -0.2)), QuadraticReward([0.7], 1.3)
    found = []
    for checkpointing in (True, False):
        made = DRaFT(UniformGrid(6), last=last, checkpointing=checkpointing)
        rollout, _ = collected(made, field, "noise", 50, reward)
        loss = made.loss(field, [rollout], torch.Generator()).mean
        assert float(loss.detach()) == pytest.approx(-float(rollout.reward.mean()))  # the collection went the same way
        found.append(torch.autograd.grad(loss, field.adapter.gk)[0])
    assert torch.equal(*found)

    def reached(g, k):
        moved, x = TiltedField(base, Line(g, k)), rollout["state"]
        for step in range(6 - last, 6):
            x = x + moved.velocity(x, torch.full((50,), step / 6, dtype=F64), Condition()) / 6
        return -float(reward.value(x.detach(), Condition()).mean())

    e = 1e-5
    slopes = [
        (reached(0.3 + e, -0.2) - reached(0.3 - e, -0.2)) / (2 * e),
        (reached(0.3, -0.2 + e) - reached(0.3, -0.2 - e)) / (2 * e),
    ]
    torch.testing.assert_close(found[0], torch.tensor(slopes, dtype=F64), rtol=1e-7, atol=1e-8)


def test_draft_runs_away_under_a_linear_reward_and_collapses_under_a_concave_one():
    base = noise()
    made = DRaFT()
    rollout, _ = collected(made, TiltedField(base, Line()), "noise", 200)
    losses = [made.loss(at("noise", a), [rollout], torch.Generator()).mean for a in (0.0, 10.0, 20.0)]
    moved = 0.05 * S2 * C / (0.05**2 + 0.95**2 * S2)  # the tilt's Δv at t = 0.95, for a step of 0.05
    assert float(losses[1] - losses[0]) == pytest.approx(-10 * 0.05 * C * moved)
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])

    reward, adapter = QuadraticReward([0.5], 2.0), Line()
    field = TiltedField(base, adapter)
    rollout, _ = collected(made, field, "noise", 200, reward)

    def loss(gk):
        with torch.no_grad():
            adapter.gk.copy_(gk)
        return torch.autograd.grad(made.loss(field, [rollout], torch.Generator()).mean, adapter.gk)[0]

    zero, unit = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    slope = loss(zero)
    newton = -torch.linalg.solve(torch.stack([loss(u) - slope for u in unit]), slope)  # the loss is quadratic
    assert float(loss(newton).abs().max()) < 1e-9
    x, t = rollout["state"], torch.full((200,), 0.95, dtype=F64)
    end = x + field.velocity(x, t, Condition()) / 20
    torch.testing.assert_close(end.detach(), torch.full_like(end, 0.25))


def test_the_energy_of_a_consistent_field_is_its_divergence_from_the_base():
    for problem, rest in (("noise", S2), ("bridge", REST)):
        field, pair = at(problem, 2.0), drawn(problem, 20_000)
        given = field.conditioning.sees_source
        ends = pair.target.x + 2 * rest * C
        condition = Condition(source=pair.source.x if given else None)
        energy = control_energy(field, pair.source.x, ends, condition, torch.Generator().manual_seed(0)).mean()
        assert float(energy) == pytest.approx(2 * rest * C * C, rel=0.01)
