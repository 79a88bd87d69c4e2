"""The table of what can be derived from what, row by row, and each wrong composition refused by name."""

from itertools import product

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise, UnconditionedBridge, capabilities_of
from flowport.conditioning import SourceConditioning, TargetLabelConditioning, Unconditional
from flowport.coupling import (
    AlignedCoupling,
    ClassConditionalCoupling,
    ConditionAwareCoupling,
    ExactCoupling,
    IndependentCoupling,
    SinkhornCoupling,
    UnbalancedCoupling,
)
from flowport.data.pairing import ClassMatchedPairing, PairedPairing, UnpairedPairing
from flowport.distribution import Digits, EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.path import BrownianBridge, LinearPath, SmoothBridge, TrigonometricPath
from flowport.prediction import (
    BridgePrediction,
    ScorePrediction,
    SourcePrediction,
    TargetPrediction,
    VelocityPrediction,
)
from flowport.types import Pair
from tests.zoo import CONDITIONINGS, COUPLINGS, PATHS, PREDICTIONS, named

NOISE, MOONS, BLIND, SEES = Gaussian(), Moons(), Unconditional(), SourceConditioning()


def ask(source=NOISE, pairing=None, coupling=None, path=None, conditioning=BLIND, prediction=None):
    target = EightGaussians() if source.event_shape == (2,) else source
    return capabilities_of(
        source,
        pairing or UnpairedPairing(source, target),
        coupling or IndependentCoupling(),
        path or LinearPath(),
        conditioning,
        prediction or VelocityPrediction(),
    )


ROWS = [
    # source, coupling, path, conditioning, prediction -> role, score
    (NOISE, IndependentCoupling(), LinearPath(), BLIND, VelocityPrediction(), SourceIsNoise, True),
    (NOISE, IndependentCoupling(), TrigonometricPath(), BLIND, ScorePrediction(), SourceIsNoise, True),
    (
        NOISE,
        IndependentCoupling(),
        LinearPath(sigma_min=0.1),
        TargetLabelConditioning(),
        TargetPrediction(),
        SourceIsNoise,
        True,
    ),
    (NOISE, IndependentCoupling(), LinearPath(), BLIND, SourcePrediction(), SourceIsNoise, True),
    (NOISE, ExactCoupling(), LinearPath(), BLIND, VelocityPrediction(), NoNoise, False),  # trap 3
    (NOISE, SinkhornCoupling(), LinearPath(), BLIND, TargetPrediction(), NoNoise, False),
    (NOISE, UnbalancedCoupling(), LinearPath(), BLIND, VelocityPrediction(), NoNoise, False),
    (NOISE, IndependentCoupling(), LinearPath(), SEES, VelocityPrediction(), NoNoise, False),
    (MOONS, IndependentCoupling(), LinearPath(), BLIND, VelocityPrediction(), NoNoise, False),
    (MOONS, ExactCoupling(), TrigonometricPath(), BLIND, SourcePrediction(), NoNoise, False),
    (Gaussian(covariance=2.0), IndependentCoupling(), LinearPath(), BLIND, VelocityPrediction(), NoNoise, False),
    (Gaussian(mean=0.1), IndependentCoupling(), LinearPath(), BLIND, VelocityPrediction(), NoNoise, False),
    (MOONS, ExactCoupling(), BrownianBridge(), BLIND, VelocityPrediction(), UnconditionedBridge, False),
    (NOISE, IndependentCoupling(), SmoothBridge(), BLIND, VelocityPrediction(), UnconditionedBridge, False),
    (MOONS, ExactCoupling(), SmoothBridge(), BLIND, BridgePrediction(), UnconditionedBridge, True),
    (MOONS, ExactCoupling(), LinearPath(noise=0.2), BLIND, BridgePrediction(), UnconditionedBridge, True),
    (MOONS, ExactCoupling(), BrownianBridge(), SEES, VelocityPrediction(), ConditionedBridge, True),
    (MOONS, IndependentCoupling(), SmoothBridge(), SEES, TargetPrediction(), ConditionedBridge, True),
    (NOISE, SinkhornCoupling(), LinearPath(noise=0.2), SEES, ScorePrediction(), ConditionedBridge, True),
    (MOONS, ExactCoupling(), SmoothBridge(), SEES, BridgePrediction(), ConditionedBridge, True),
]


@pytest.mark.parametrize(("source", "coupling", "path", "conditioning", "prediction", "role", "score"), ROWS)
def test_rows_of_the_table(source, coupling, path, conditioning, prediction, role, score):
    capabilities = ask(source, None, coupling, path, conditioning, prediction)
    assert type(capabilities.role) is role and capabilities.score is score
    if score:
        capabilities.require_score("anybody")
    else:
        with pytest.raises(FlowportError, match="anybody needs a score"):
            capabilities.require_score("anybody")


@pytest.mark.parametrize("path", **named(PATHS))
def test_a_score_has_a_reason_in_every_composition_of_the_zoo(path):
    """Restated from the theory: p_t has a score iff independent Gaussian noise of a known weight enters x_t and the
    field can tell it from the rest."""
    couplings = [made for _, make in COUPLINGS if not (made := make()).needs_matched_classes]
    conditionings, predictions = ([make() for _, make in members] for members in (CONDITIONINGS, PREDICTIONS))
    p, accepted = path(), 0
    for source, c, k, prediction in product((NOISE, MOONS), couplings, conditionings, predictions):
        try:
            capabilities = ask(source, None, c, p, k, prediction)
        except FlowportError:
            continue
        accepted += 1
        free_noise = not p.bridge and source is NOISE and c.independent and not k.sees_source
        told_apart = p.bridge and (k.sees_source or prediction.heads == 2)
        assert capabilities.score == (free_noise or told_apart)
    assert accepted > 50


STORED = Digits()
WRONG = [
    (
        {"source": STORED, "pairing": PairedPairing(STORED, STORED), "coupling": ExactCoupling()},
        "set of pairs would destroy the pairs",
    ),
    (
        {"source": STORED, "pairing": PairedPairing(STORED, STORED), "coupling": SinkhornCoupling()},
        "set of pairs would destroy the pairs",
    ),
    ({"source": STORED, "coupling": ClassConditionalCoupling()}, "coupling=class_conditional needs equal class counts"),
    ({"source": MOONS, "prediction": ScorePrediction()}, "prediction=score needs a score"),
    ({"coupling": ExactCoupling(), "prediction": ScorePrediction()}, "prediction=score needs a score"),
    ({"path": SmoothBridge(), "prediction": TargetPrediction()}, "prediction=target is undefined on a bridge"),
    ({"path": SmoothBridge(), "prediction": SourcePrediction()}, "prediction=source is undefined on a bridge"),
    ({"path": BrownianBridge(), "prediction": ScorePrediction()}, "prediction=score is undefined on a bridge"),
    ({"prediction": BridgePrediction()}, "prediction=bridge needs a path with noise"),
    ({"source": MOONS, "prediction": BridgePrediction()}, "prediction=bridge needs a path with noise"),
    (
        {"path": SmoothBridge(), "conditioning": SEES, "prediction": SourcePrediction()},
        "prediction=source is pointless",
    ),
]


@pytest.mark.parametrize(("composition", "says"), WRONG)
def test_wrong_compositions_are_refused_by_name(composition, says):
    with pytest.raises(FlowportError, match=says):
        ask(**composition)


def test_class_conditional_over_matched_classes_is_accepted_without_a_score():
    capabilities = ask(STORED, ClassMatchedPairing(STORED, STORED), ClassConditionalCoupling())
    assert isinstance(capabilities.role, NoNoise) and not capabilities.score


def test_paired_data_have_no_free_noise_even_from_a_gaussian():
    class Pairs(UnpairedPairing):
        independent = False
        paired = True

    capabilities = ask(pairing=Pairs(NOISE, EightGaussians()))
    assert isinstance(capabilities.role, NoNoise) and not capabilities.score


def test_reward_tilts_and_their_refusals():
    SourceIsNoise().require_tilt()
    ConditionedBridge().require_tilt()
    assert "marginal" in SourceIsNoise.tilt and "per start" in ConditionedBridge.tilt
    assert not NoNoise.tilt and not UnconditionedBridge.tilt
    with pytest.raises(FlowportError, match="reward fine-tuning needs a score"):
        NoNoise().require_tilt()
    with pytest.raises(FlowportError, match="train the bridge with conditioning=source"):
        UnconditionedBridge().require_tilt()


@pytest.mark.parametrize("make", **named(PATHS))
def test_amplitude_is_the_weight_of_the_noise_and_its_slope(make):
    path, t = make(), torch.tensor([0.2, 0.7], dtype=torch.float64)
    c = path.coefficients(t)
    roles = (UnconditionedBridge(), ConditionedBridge()) if path.bridge else (SourceIsNoise(),)
    for role in roles:
        n, dn = role.amplitude(c)
        assert torch.equal(n, path.gamma(t) if path.bridge else path.alpha(t))
        assert torch.equal(dn, c.dgamma if path.bridge else c.dalpha)
    with pytest.raises(FlowportError, match="no score"):
        NoNoise().amplitude(c)


@pytest.mark.parametrize("coupling", **named([c for c in COUPLINGS if c[0] != "class_conditional"]))
@pytest.mark.parametrize("conditioning", **named(CONDITIONINGS))
def test_the_start_may_depend_on_a_label_only_where_the_field_knows(coupling, conditioning):
    """x0 | y = p0 under independent and condition-aware couplings; all others are refused under target_label alone."""
    made, known = coupling(), conditioning()
    source, target = EightGaussians(), EightGaussians()
    refused = isinstance(known, TargetLabelConditioning) and not (made.independent or made.label_aware)
    words = {"pairing": UnpairedPairing(source, target), "coupling": made, "conditioning": known}
    if refused:
        with pytest.raises(
            FlowportError, match=r"depend on the target's label.*use coupling=independent or condition_aware$"
        ):
            ask(source, **words)
    else:
        assert ask(source, **words).score is False


def test_the_refusal_names_what_the_composition_admits():
    eight = EightGaussians()
    pairing = ClassMatchedPairing(eight, eight)
    with pytest.raises(FlowportError, match=r"use coupling=independent, condition_aware or class_conditional$"):
        ask(eight, pairing, ExactCoupling(), conditioning=TargetLabelConditioning())
    assert AlignedCoupling().label_aware and not AlignedCoupling(ExactCoupling()).label_aware


def test_optimal_transport_moves_the_start_of_a_label_and_condition_aware_does_not():
    """The mean start of one target class: p0's under C2OT, that of the nearest sources under plain transport."""
    eight, generator = EightGaussians(), torch.Generator().manual_seed(0)
    pair = Pair(Gaussian(2).sample(2000, generator), eight.sample(2000, generator))
    means = {}
    for coupling in (ExactCoupling(), ConditionAwareCoupling()):
        plan = coupling(pair, generator)
        start = pair.source.x[plan.i][pair.target.label[plan.j] == 0]
        means[type(coupling)] = float(start.mean(0).norm())
    assert means[ExactCoupling] > 1 > 0.25 > means[ConditionAwareCoupling]
