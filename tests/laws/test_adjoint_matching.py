"""The objective pairs, chooses and clips what the schemes define (tests/laws/test_adjoint.py has the schemes' laws)."""

import pytest
import torch

from flowport.finetuning.discretisation import PaperDiscretisation
from flowport.finetuning.method import AdjointMatching, Rollout
from flowport.reward import QuadraticReward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair, Sample
from tests.laws.test_adjoint import BASES, F64, normal, tabled

STEPS = 20
LATE = [k for k in range(STEPS - 1) if k / STEPS >= 0.75]


@pytest.mark.parametrize(("c", "q"), [(1.5, 0.0), (1.0, 2.0)])
@pytest.mark.parametrize("name", BASES)
def test_what_is_collected_regresses_on_the_optimal_control_of_its_scheme(name, c, q):
    """Under the optimal control of the scheme's chain: E[−a − G | x_k] = 0 within 4 standard errors at every step."""
    discretisation, base, x0 = BASES[name]
    field, _, g, gain = tabled(discretisation, base, c, q, x0)
    n = 40_000
    source = (
        torch.randn(n, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
        if x0 is None
        else (torch.full((n, 1), x0, dtype=F64))
    )
    pair, reward = Pair(Sample(source), Sample(source)), QuadraticReward([c / 3], q / 3)
    rollout, facts = AdjointMatching(discretisation).collect(field, reward, 3.0, pair, torch.Generator().manual_seed(2))
    assert len(rollout["states"]) == discretisation.grid.steps - 1, "every noisy step"
    assert float(facts["clipped"]) == 0
    for k, (state, adjoint) in enumerate(zip(rollout["states"], rollout["adjoints"], strict=True)):
        x = state[:, 0]
        rest = -adjoint[:, 0] - (g[k] + gain[k] * x)
        for feature in (torch.ones_like(x), x - x.mean()) if float(x.std()) > 1e-9 else (torch.ones_like(x),):
            error = (rest * feature).std() / n**0.5
            assert abs(float((rest * feature).mean())) <= 4 * float(error) + 1e-9, k


def loss_terms(early, clip=None, strength=2.0):
    """The terms of a loss whose step k costs k + 1 on every one of 200 paths without a control."""
    n, k = 200, STEPS - 1
    adjoints = (torch.arange(k, dtype=F64) + 1).sqrt()[:, None, None].expand(k, n, 1)
    times = torch.arange(k, dtype=F64) / STEPS
    start = torch.zeros(n, 1, dtype=F64)
    rollout = Rollout(
        start,
        start,
        start[:, 0],
        start[:, 0],
        record={
            "times": times,
            "variances": torch.ones(k, dtype=F64),
            "states": torch.zeros(k, n, 1, dtype=F64),
            "adjoints": adjoints,
            "strength": start.new_tensor(strength),
        },
    )
    discretisation, base = PaperDiscretisation(UniformGrid(STEPS)), normal()
    field, _, g, gain = tabled(discretisation, base, 0.0, 0.0)
    assert float(g.abs().max()) == 0 and float(gain.abs().max()) == 0, "a reward of nothing needs no control"
    method = AdjointMatching(discretisation, early=early, clip=clip)
    return method.loss(field, [rollout], torch.Generator().manual_seed(0)).terms


def test_the_steps_near_the_data_are_always_learnt_from_and_the_others_drawn():
    """TRAPS 9: keeping the steps near the noise instead is a published mistake."""
    steps = (loss_terms(early=3).view(200, -1) - 1).round().long()
    assert steps.shape[1] == 3 + len(LATE)
    late = steps.sort(1).values[:, 3:]
    assert torch.equal(late, torch.tensor(LATE).expand_as(late))
    drawn = steps.sort(1).values[:, :3]
    assert bool((drawn < min(LATE)).all()) and bool((drawn.diff(dim=1) > 0).all()), "early ones, none of them twice"
    assert len(drawn.unique()) == min(LATE), "and all of them in turn"
    assert (loss_terms(early=None).view(200, -1) - 1).round().long().sort(1).values[0].tolist() == list(
        range(STEPS - 1)
    )


def test_a_term_counts_at_most_clip_times_the_square_of_the_strength():
    terms, plain = loss_terms(early=None, clip=1.6, strength=2.0), loss_terms(early=None)
    assert torch.allclose(terms, plain.clamp_max(6.4).to(terms))


def test_the_share_of_clipped_terms_is_logged():
    field, _, _, _ = tabled(*BASES["noise-paper"][:2], 1.5, 0.0)
    source = torch.randn(512, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    pair = Pair(Sample(source), Sample(source))
    found = {
        clip: float(
            AdjointMatching(BASES["noise-paper"][0], clip=clip).collect(
                field, QuadraticReward([1.0], 2.0), 1.0, pair, torch.Generator().manual_seed(2)
            )[1]["clipped"]
        )
        for clip in (1e-9, 0.5, 1e9)
    }
    assert found[1e9] == 0 < found[0.5] < found[1e-9] and found[1e-9] > 0.99
