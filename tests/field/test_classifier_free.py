"""Classifier-free guidance against exact conditional and unconditional fields."""

import pytest
import torch

from flowport.capabilities import Capabilities, ConditionedBridge, SourceIsNoise, UnconditionedBridge
from flowport.conditioning import Conditioning, SourceConditioning, TargetLabelConditioning, Unconditional
from flowport.errors import FlowportError
from flowport.field import AnalyticField, Field, JointMixture, LearnedField
from flowport.field.guidance import ClassifierFreeGuidance, RewardGuidance
from flowport.network import MLP, PatchUNet
from flowport.path import LinearPath
from flowport.prediction import VelocityPrediction
from flowport.prediction.base import FlowState, endpoints
from flowport.reward import LinearReward
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import EulerMaruyama, Heun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ConstantVolatility, ZeroVolatility
from flowport.types import Condition, ConditionShape, Sample
from tests.laws.oracles import COMPOSITIONS, COUPLED, SCORED, Composition, compositions
from tests.laws.tilts import F64, mixture

B = 40


class Labelled(Field):
    """Exact fields by label: law c of label c, the last one of −1. asked: the rows of every call."""

    def __init__(self, laws: list[Field], conditioning: Conditioning) -> None:
        base = laws[-1]
        super().__init__(base.path, base.prediction, conditioning, base.capabilities)
        self.laws, self.asked = laws, []

    def forward(self, x, t, condition):
        self.asked.append(len(x))
        outputs = torch.stack([law.output(x, t, Condition()) for law in self.laws])
        return outputs[condition.label, torch.arange(len(x))]


class Seeing(Field):
    """The exact field given x0, and the blind one in the rows without x0."""

    def __init__(self, pairing: JointMixture, composition: Composition) -> None:
        role = ConditionedBridge()
        capabilities = Capabilities(role, True)
        super().__init__(composition.path, composition.prediction, SourceConditioning(0.1), capabilities)
        self.given, self.blind = composition.field(pairing), blind(pairing, composition)

    def forward(self, x, t, condition):
        lost = condition.source.isnan().any(1)
        conditioned = self.given.output(x, t, Condition(source=condition.source.nan_to_num(0.0)))
        return torch.where(lost[:, None], self.blind.output(x, t, Condition()), conditioned)


def blind(pairing: JointMixture, composition: Composition) -> AnalyticField:
    capabilities = Capabilities(UnconditionedBridge(), composition.prediction.heads > 1)
    return AnalyticField(pairing, composition.path, composition.prediction, Unconditional(), capabilities)


def labelled(composition: Composition, dropout: float = 0.1) -> Labelled:
    """The oracle's mixture, whose component is its label."""
    pairing = composition.joint("mixture")
    parts = [JointMixture(*(v[k : k + 1] for v in vars(pairing).values())) for k in range(2)]
    return Labelled([composition.field(law) for law in (*parts, pairing)], TargetLabelConditioning(dropout))


def points() -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """x and t inside the path, with labels of both classes."""
    x = 1.5 * torch.randn(B, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.05, 0.95, B, dtype=F64), Condition(torch.arange(B) % 2)


NOTHING = Condition(torch.full((B,), -1))
BLIND = [(name, c) for name, c in COMPOSITIONS if not c.sees_source]


@pytest.mark.parametrize("composition", **compositions(BLIND))
def test_velocity_and_end_points_are_those_of_the_formula(composition):
    base, (x, t, conditioned) = labelled(composition), points()
    guided = ClassifierFreeGuidance(base, 2.5)
    u, c = (base.velocity(x, t, condition) for condition in (NOTHING, conditioned))
    torch.testing.assert_close(guided.velocity(x, t, conditioned), u + 2.5 * (c - u), rtol=1e-9, atol=1e-9)
    assert float((c - u).abs().max()) > 0.1
    if composition.path.bridge and composition.prediction.heads == 1:
        return  # one velocity head of a blind bridge has no end points
    ends = (base.endpoints(x, t, condition) for condition in (NOTHING, conditioned))
    for u, c, found in zip(*ends, guided.endpoints(x, t, conditioned), strict=True):
        assert (u is None) == (found is None)
        if found is not None:
            torch.testing.assert_close(found, u + 2.5 * (c - u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("composition", **compositions([(name, c) for name, c in SCORED if not c.sees_source]))
def test_the_score_is_guided_by_the_same_linear_relation_as_the_velocity(composition):
    base, (x, t, conditioned) = labelled(composition), points()
    guided = ClassifierFreeGuidance(base, 3.0, (0.2, 0.8), 1.0)
    u, c = (base.score(x, t, condition) for condition in (NOTHING, conditioned))
    v, s = guided.velocity_and_score(x, t, conditioned)
    torch.testing.assert_close(s, u + guided.weight(t)[:, None] * (c - u), rtol=1e-9, atol=1e-9)
    if isinstance(composition.role, SourceIsNoise):
        coefficients = composition.path.coefficients(t)
        noise = endpoints(FlowState(x, v), coefficients, None)[0]
        torch.testing.assert_close(s, -noise / coefficients.over(x).alpha, rtol=1e-9, atol=1e-9)


GIVEN = [(name, c) for name, c in COMPOSITIONS if c.sees_source]


@pytest.mark.parametrize("composition", **compositions(GIVEN))
def test_guidance_by_the_start_itself(composition):
    """The network does not see x0, the algebra of the path still knows it: v and score stay one linear relation."""
    pairing, (x, t, _) = COUPLED["mixture"], points()
    base, conditioned = Seeing(pairing, composition), Condition(source=x.flip(0))
    guided = ClassifierFreeGuidance(base, 2.5)
    c, s = base.given.velocity_and_score(x, t, conditioned)
    output = blind(pairing, composition).output(x, t, Condition())
    flow_state = composition.prediction.flow_state(output, x, composition.path.coefficients(t), conditioned.source)
    v, score = guided.velocity_and_score(x, t, conditioned)
    torch.testing.assert_close(v, flow_state.velocity + 2.5 * (c - flow_state.velocity), rtol=1e-9, atol=1e-9)
    u = -base.capabilities.role.noise(flow_state, composition.path.coefficients(t), conditioned.source)
    u = u / composition.path.coefficients(t).over(x).gamma
    torch.testing.assert_close(score, u + 2.5 * (s - u), rtol=1e-8, atol=1e-8)
    assert bool(score.isfinite().all())


def test_scale_one_is_the_conditional_field_and_zero_the_unconditional_one_to_the_bit():
    composition = BLIND[0][1]
    base, (x, t, conditioned) = labelled(composition), points()
    assert torch.equal(ClassifierFreeGuidance(base, 1.0).velocity(x, t, conditioned), base.velocity(x, t, conditioned))
    assert torch.equal(ClassifierFreeGuidance(base, 0.0).velocity(x, t, conditioned), base.velocity(x, t, NOTHING))


@pytest.mark.parametrize(("network", "shape"), [(MLP, (2,)), (PatchUNet, (1, 8, 8))], ids=["mlp", "patch_unet"])
@pytest.mark.parametrize(
    ("solver", "volatility"),
    [(Heun(), ZeroVolatility()), (EulerMaruyama(), ConstantVolatility(0.5))],
    ids=["ode", "sde"],
)
def test_a_learned_flow_at_scale_one_samples_the_bits_of_the_conditional_model(network, shape, solver, volatility):
    torch.manual_seed(0)
    net = network(shape, ConditionShape(classes=3))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    capabilities = Capabilities(SourceIsNoise(), True)
    base, source = (
        LearnedField(net, LinearPath(), VelocityPrediction(), TargetLabelConditioning(0.1), capabilities),
        Sample(torch.randn(7, *shape)),
    )
    label = torch.arange(7) % 3

    def end(field):
        translator = Translator(field, solver, UniformGrid(3), volatility)
        return translator.forward(source, torch.Generator().manual_seed(1), label).end

    assert torch.equal(end(ClassifierFreeGuidance(base, 1.0)), end(base))
    assert not torch.equal(end(ClassifierFreeGuidance(base, 2.0)), end(base))


def test_the_scale_acts_in_its_interval_and_grows_in_it():
    composition = BLIND[0][1]
    base, (x, t, conditioned) = labelled(composition), points()
    guided = ClassifierFreeGuidance(base, 3.0, (0.25, 0.75), 2.0)
    w = guided.weight(torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.75, 0.7501, 1.0], dtype=F64))
    assert w.tolist() == pytest.approx([1, 1, 1, 1 + 2 * 0.25, 3, 1, 1], abs=1e-12)
    assert ClassifierFreeGuidance(base, 3.0).weight(t).eq(3).all(), "one scale throughout"
    assert ClassifierFreeGuidance(base, 3.0, (0.25, 0.75)).weight(torch.tensor([0.25, 0.3])).eq(3).all()
    u, c = (base.velocity(x, t, condition) for condition in (NOTHING, conditioned))
    change = (guided.velocity(x, t, conditioned) - c).abs().amax(1) > 1e-12
    assert torch.equal(change, (t > 0.25) & (t <= 0.75) & ((c - u).abs().amax(1) > 1e-12))


def test_one_batched_call_of_the_base_for_every_evaluation():
    base = labelled(BLIND[0][1])
    x, _, conditioned = points()
    for scale, interval, rows in (
        (3.0, (0, 1), [80] * 8),
        (1.0, (0, 1), [40] * 8),
        (3.0, (0.6, 1), [40] * 5 + [80] * 3),
    ):
        base.asked.clear()
        dynamics = Dynamics(ClassifierFreeGuidance(base, scale, interval), conditioned, ZeroVolatility())
        trajectory = Heun().solve(dynamics, x, UniformGrid(4).times(base.path).to(x), torch.Generator())
        assert trajectory.nfe == 8 and base.asked == rows


@pytest.mark.parametrize(
    ("solver", "volatility"),
    [(Heun(), ZeroVolatility()), (EulerMaruyama(), ConstantVolatility(0.7))],
    ids=["ode", "sde"],
)
def test_results_of_gaussians_of_one_covariance_lie_beyond_the_conditional_mean(solver, volatility):
    """Both fields are affine with one slope, so the guided one carries noise to N(m_u + w (m_c − m_u), S)."""
    spread = torch.tensor([[[0.7, 0.3], [0.3, 0.4]]], dtype=F64)
    means = torch.tensor([[1.0, -0.5], [-0.4, 0.2]], dtype=F64)
    capabilities = Capabilities(SourceIsNoise(), True)
    laws = [
        AnalyticField(
            mixture([1.0], m[None], spread), LinearPath(), VelocityPrediction(), Unconditional(), capabilities
        )
        for m in means
    ]
    guided = ClassifierFreeGuidance(Labelled(laws, TargetLabelConditioning(0.1)), 2.5)
    generator, n = torch.Generator().manual_seed(1), 1000
    x = torch.randn(n, 2, dtype=F64, generator=generator)
    dynamics = Dynamics(guided, Condition(torch.zeros(n, dtype=torch.long)), volatility)
    end = solver.solve(dynamics, x, UniformGrid(32).times(LinearPath()), generator).end
    wanted = means[1] + 2.5 * (means[0] - means[1])
    assert bool(((end.mean(0) - wanted).abs() < 4 * (spread[0].diagonal() / n).sqrt() + 0.01).all())
    torch.testing.assert_close(end.T.cov(), spread[0], rtol=0, atol=0.12)


def test_a_sampler_leaves_the_base_in_the_mode_it_found():
    torch.manual_seed(0)
    capabilities, source = Capabilities(SourceIsNoise(), True), Sample(torch.randn(4, 2))
    for mode in (True, False):
        net = MLP((2,), ConditionShape(classes=2))
        base = LearnedField(net, LinearPath(), VelocityPrediction(), TargetLabelConditioning(0.1), capabilities).train(
            mode
        )
        for field in (ClassifierFreeGuidance(base, 2.0), RewardGuidance(base, LinearReward([1.0, 0.0]))):
            Translator(field, Heun(), UniformGrid(2), ZeroVolatility()).forward(
                source, torch.Generator(), torch.zeros(4).long()
            )
            assert base.training == net.training == mode


def test_what_cannot_be_guided_is_refused():
    composition = BLIND[0][1]
    for conditioning in (Unconditional(), TargetLabelConditioning()):
        base = labelled(composition)
        base.conditioning = conditioning
        with pytest.raises(FlowportError, match="needs a flow that was also trained without its condition"):
            ClassifierFreeGuidance(base, 2.0)
    wrong = [
        ((-1.0,), "guidance.scale=-1.0"),
        ((2.0, (0, 1), -1.0), "guidance.ramp=-1.0"),
        ((2.0, (0.5, 0.5)), "guidance.interval"),
        ((2.0, (0, 0.5, 1)), "guidance.interval"),
    ]
    for options, word in wrong:
        with pytest.raises(FlowportError, match=word):
            ClassifierFreeGuidance(labelled(composition), *options)
