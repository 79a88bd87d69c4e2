"""The table of what can be derived from what, row by row, and each wrong composition refused by name."""

from itertools import product

import pytest
import torch

from flowport.capabilities import BlindBridge, BridgeGivenSource, NoNoise, SourceIsNoise, capabilities
from flowport.conditioning import SourceItself, TargetLabel, Unconditional
from flowport.coupling import ClassConditional, Exact, Independent, Sinkhorn, Unbalanced
from flowport.distribution import Digits, EightGaussians, Gaussian, Moons
from flowport.errors import Refusal
from flowport.joint import ClassMatched, Paired, Product
from flowport.path import BrownianBridge, Linear, SmoothBridge, Trigonometric
from flowport.prediction import Bridge, Score, Source, Target, Velocity
from tests.zoo import CONDITIONINGS, COUPLINGS, PATHS, PREDICTIONS, named

NOISE, MOONS, BLIND, SEES = Gaussian(), Moons(), Unconditional(), SourceItself()


def ask(source=NOISE, joint=None, coupling=None, path=None, conditioning=BLIND, prediction=None):
    target = EightGaussians() if source.event_shape == (2,) else source
    return capabilities(
        source, joint or Product(source, target), coupling or Independent(), path or Linear(), conditioning,
        prediction or Velocity(),
    )  # fmt: skip


ROWS = [
    # source, coupling, path, conditioning, prediction -> role, score
    (NOISE, Independent(), Linear(), BLIND, Velocity(), SourceIsNoise, True),
    (NOISE, Independent(), Trigonometric(), BLIND, Score(), SourceIsNoise, True),
    (NOISE, Independent(), Linear(sigma_min=0.1), TargetLabel(), Target(), SourceIsNoise, True),
    (NOISE, Independent(), Linear(), BLIND, Source(), SourceIsNoise, True),
    (NOISE, Exact(), Linear(), BLIND, Velocity(), NoNoise, False),  # trap 3
    (NOISE, Sinkhorn(), Linear(), BLIND, Target(), NoNoise, False),
    (NOISE, Unbalanced(), Linear(), BLIND, Velocity(), NoNoise, False),
    (NOISE, Independent(), Linear(), SEES, Velocity(), NoNoise, False),
    (MOONS, Independent(), Linear(), BLIND, Velocity(), NoNoise, False),
    (MOONS, Exact(), Trigonometric(), BLIND, Source(), NoNoise, False),
    (Gaussian(covariance=2.0), Independent(), Linear(), BLIND, Velocity(), NoNoise, False),
    (Gaussian(0.1), Independent(), Linear(), BLIND, Velocity(), NoNoise, False),
    (MOONS, Exact(), BrownianBridge(), BLIND, Velocity(), BlindBridge, False),
    (NOISE, Independent(), SmoothBridge(), BLIND, Velocity(), BlindBridge, False),
    (MOONS, Exact(), SmoothBridge(), BLIND, Bridge(), BlindBridge, True),
    (MOONS, Exact(), Linear(noise=0.2), BLIND, Bridge(), BlindBridge, True),
    (MOONS, Exact(), BrownianBridge(), SEES, Velocity(), BridgeGivenSource, True),
    (MOONS, Independent(), SmoothBridge(), SEES, Target(), BridgeGivenSource, True),
    (NOISE, Sinkhorn(), Linear(noise=0.2), SEES, Score(), BridgeGivenSource, True),
    (MOONS, Exact(), SmoothBridge(), SEES, Bridge(), BridgeGivenSource, True),
]


@pytest.mark.parametrize(("source", "coupling", "path", "conditioning", "prediction", "role", "score"), ROWS)
def test_rows_of_the_table(source, coupling, path, conditioning, prediction, role, score):
    able = ask(source, None, coupling, path, conditioning, prediction)
    assert type(able.role) is role and able.score is score
    if score:
        able.require_score("anybody")
    else:
        with pytest.raises(Refusal, match="anybody needs a score"):
            able.require_score("anybody")


@pytest.mark.parametrize("path", **named(PATHS))
def test_a_score_has_a_reason_in_every_composition_of_the_zoo(path):
    """Restated from the theory: p_t has a score iff independent Gaussian noise of a known weight enters x_t and the
    field can tell it from the rest."""
    couplings = [made for _, make in COUPLINGS if not (made := make()).needs_matched_classes]
    conditionings, predictions = ([make() for _, make in members] for members in (CONDITIONINGS, PREDICTIONS))
    p, accepted = path(), 0
    for source, c, k, prediction in product((NOISE, MOONS), couplings, conditionings, predictions):
        try:
            able = ask(source, None, c, p, k, prediction)
        except Refusal:
            continue
        accepted += 1
        free_noise = not p.bridge and source is NOISE and c.independent and not k.sees_source
        told_apart = p.bridge and (k.sees_source or prediction.heads == 2)
        assert able.score == (free_noise or told_apart)
    assert accepted > 50


STORED = Digits()
WRONG = [
    ({"source": STORED, "joint": Paired(STORED, STORED), "coupling": Exact()}, "paired joint would destroy the pairs"),
    (
        {"source": STORED, "joint": Paired(STORED, STORED), "coupling": Sinkhorn()},
        "paired joint would destroy the pairs",
    ),
    ({"source": STORED, "coupling": ClassConditional()}, "coupling=class_conditional needs equal class counts"),
    ({"source": MOONS, "prediction": Score()}, "prediction=score needs a score"),
    ({"coupling": Exact(), "prediction": Score()}, "prediction=score needs a score"),
    ({"path": SmoothBridge(), "prediction": Target()}, "prediction=target is undefined on a bridge"),
    ({"path": SmoothBridge(), "prediction": Source()}, "prediction=source is undefined on a bridge"),
    ({"path": BrownianBridge(), "prediction": Score()}, "prediction=score is undefined on a bridge"),
    ({"prediction": Bridge()}, "prediction=bridge needs a path with noise"),
    ({"source": MOONS, "prediction": Bridge()}, "prediction=bridge needs a path with noise"),
    ({"path": SmoothBridge(), "conditioning": SEES, "prediction": Source()}, "prediction=source is pointless"),
]


@pytest.mark.parametrize(("composition", "says"), WRONG)
def test_wrong_compositions_are_refused_by_name(composition, says):
    with pytest.raises(Refusal, match=says):
        ask(**composition)


def test_class_conditional_over_matched_classes_is_accepted_without_a_score():
    able = ask(STORED, ClassMatched(STORED, STORED), ClassConditional())
    assert isinstance(able.role, NoNoise) and not able.score


def test_paired_data_have_no_free_noise_even_from_a_gaussian():
    class Pairs(Product):
        independent = False
        paired = True

    able = ask(joint=Pairs(NOISE, EightGaussians()))
    assert isinstance(able.role, NoNoise) and not able.score


def test_reward_tilts_and_their_refusals():
    SourceIsNoise().refuse_tilt()
    BridgeGivenSource().refuse_tilt()
    assert "marginal" in SourceIsNoise.tilt and "per start" in BridgeGivenSource.tilt
    assert not NoNoise.tilt and not BlindBridge.tilt
    with pytest.raises(Refusal, match="reward fine-tuning needs a score"):
        NoNoise().refuse_tilt()
    with pytest.raises(Refusal, match="train the bridge with conditioning=source"):
        BlindBridge().refuse_tilt()


@pytest.mark.parametrize("make", **named(PATHS))
def test_amplitude_is_the_weight_of_the_noise_and_its_slope(make):
    path, t = make(), torch.tensor([0.2, 0.7], dtype=torch.float64)
    c = path.coefficients(t)
    roles = (BlindBridge(), BridgeGivenSource()) if path.bridge else (SourceIsNoise(),)
    for role in roles:
        n, dn = role.amplitude(c)
        assert torch.equal(n, path.gamma(t) if path.bridge else path.alpha(t))
        assert torch.equal(dn, c.dgamma if path.bridge else c.dalpha)
    with pytest.raises(Refusal, match="no score"):
        NoNoise().amplitude(c)
