"""A flow told a class is tuned towards the tilt given the class: what a reward says of the class moves nothing."""

import pytest
import torch

from flowport.conditioning import TargetLabelConditioning
from flowport.field import AnalyticField
from flowport.finetuning.adjoint_snr import AdjointSNR, adjoint_snr
from flowport.finetuning.method import PathWeighted, PolicyGradient
from flowport.finetuning.path_weights import centred, effective, law_groups, normalised, standardised
from flowport.finetuning.probe import weighed
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward import LinearReward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair, Sample
from tests.laws.problems import S2, C, noise
from tests.laws.tilts import F64, Line, Scaled
from tests.zoo import TUNINGS, named

CLASSES = 4
METHODS = [t for t in TUNINGS if t[0] not in ("draft", "value_matching")]  # the latter refuses a told class
METHODS.append(
    ("flow_grpo", lambda: PolicyGradient(UniformGrid(5), normalise=True, published=True, batch=32, steps_per_rollout=2))
)


class ClassGap(LinearReward):
    """C x − bend x²/2, and ``gap`` nats more for every class than for the one before it."""

    def __init__(self, gap: float, bend: float = 0.0) -> None:
        super().__init__([C])
        self.gap, self.bend = gap, bend

    def forward(self, x1, condition):
        bent = super().forward(x1, condition) - self.bend * x1[:, 0].square() / 2
        return bent + self.gap * condition.label.to(x1)


class Heard(Line):
    """A line that remembers the classes that it was told last."""

    def velocity(self, x, t, condition, base, gains):
        self.label = condition.label
        return super().velocity(x, t, condition, base, gains)


def told(mean: float = 1.0) -> AnalyticField:
    plain = noise(mean)
    return AnalyticField(plain.joint, plain.path, plain.prediction, TargetLabelConditioning(), plain.capabilities)


def tilted() -> TiltedField:
    """The exact tilt by C x, which is that of every ``ClassGap`` given the class."""
    return TiltedField(told(), Scaled(told(), told(1 + S2 * C)))


def labelled(n: int, classes: int = CLASSES) -> Pair:
    x = torch.randn(n, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    return Pair(Sample(x), Sample(x, torch.arange(n) % classes + 5))


def collected(method, field, gap, n=400):
    method.accept(field.base, ClassGap(gap))
    return method.collect(field, ClassGap(gap), 1.0, labelled(n), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("late", [None, 0.4], ids=["flow", "adjoint"])
def test_the_exact_tilt_of_every_class_has_the_whole_strength(late) -> None:
    rollout, facts = collected(PathWeighted(UniformGrid(20), late=late), tilted(), 30.0)
    assert float(facts["strength_share"]) == 1 and float(facts["temper"]) == 1
    assert float(facts["effective_share"]) > 0.95
    plain = PathWeighted(UniformGrid(20), late=late).collect(
        TiltedField(noise(), Scaled(noise(), noise(1 + S2 * C))),
        LinearReward([C]),
        1.0,
        labelled(400),
        torch.Generator().manual_seed(1),
    )[1]
    wanted = plain["scaled_tilted_reward"] + 30 * (5 + (CLASSES - 1) / 2)
    assert float(facts["scaled_tilted_reward"]) == pytest.approx(float(wanted), abs=0.02)


def test_drawn_results_keep_the_frequencies_of_the_classes() -> None:
    method = PathWeighted(UniformGrid(10), late=None, batch=8000, replay_size=2)
    field = TiltedField(told(), Heard())
    replay = [collected(method, field, 30.0)[0] for _ in range(2)]
    method.loss(field, [replay[0].without_record, replay[1]], torch.Generator().manual_seed(2))
    shares = field.adapter.label.bincount()[5:] / 8000
    assert shares.tolist() == pytest.approx([1 / CLASSES] * CLASSES, abs=0.02)


@pytest.mark.parametrize("make", **named(METHODS))
def test_what_a_reward_says_of_the_class_alone_moves_nothing(make) -> None:
    found = []
    for gap in (0.0, 30.0):
        method, field = make(), TiltedField(told(), Line(0.3, -0.2))
        rollout, _ = collected(method, field, gap, 40)
        loss = method.loss(field, [rollout], torch.Generator().manual_seed(2)).mean
        found.append(torch.autograd.grad(loss, field.adapter.gk)[0])
    assert bool(found[0].any())
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_the_signal_of_the_adjoint_is_that_given_the_class() -> None:
    def seen(gap: float) -> AdjointSNR:
        generator = torch.Generator().manual_seed(3)
        return adjoint_snr(told(), ClassGap(gap, 1.0), 1.0, labelled(32), generator, 32, at=(0.5,))

    alike, apart = seen(0.0), seen(30.0)
    assert not apart.signals[0].withheld
    assert apart.numbers() == pytest.approx(alike.numbers(), rel=1e-6)


def test_classes_are_the_groups_and_rare_ones_are_one_together() -> None:
    label = torch.tensor([7, -1, 7, 7, 3, 7, 9, 9, 9, 9])
    group = law_groups(label)
    assert isinstance(group, torch.Tensor)
    same = group[:, None] == group
    wanted = torch.tensor([0, 2, 0, 0, 2, 0, 1, 1, 1, 1])
    assert torch.equal(same, wanted[:, None] == wanted)
    both = law_groups(torch.stack([label, label.flip(0)]))
    assert torch.equal(both[0], group) and torch.equal(both[1], group.flip(0))  # type: ignore[index]
    assert law_groups(None) == 1 and law_groups(torch.randn(10, 1)) == 1 and law_groups(label, 5) == 5


def test_a_groups_number_says_the_same_as_equal_contiguous_groups() -> None:
    values = torch.randn(3, 12, dtype=F64, generator=torch.Generator().manual_seed(0))
    group = torch.arange(12) // 4
    w = normalised(values, group)
    torch.testing.assert_close(w, normalised(values, 3))
    torch.testing.assert_close(effective(w, group), effective(w, 3))
    for function in (centred, standardised):
        torch.testing.assert_close(function(values[0], group), function(values[0], 3))


def test_weights_of_unequal_classes_by_hand() -> None:
    """Six and four results: shares of six and four tenths, the effective size and the KL are means over results."""
    value = torch.randn(10, dtype=F64, generator=torch.Generator().manual_seed(0))
    group = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 1, 0])
    share = kl = 0.0
    for g, n in ((0, 6), (1, 4)):
        own = value[group == g].softmax(0)
        share += float(1 / own.square().sum()) / 10
        kl += n / 10 * float((own * (own * n).log()).sum())
        assert float(normalised(value, group)[group == g].sum()) == pytest.approx(n / 10)
    found = weighed(value, group)
    assert (found.effective, found.kl) == pytest.approx((share, kl))
    alone = torch.tensor([0, 0, 1], dtype=torch.long)
    assert centred(value[:3], alone)[2] == 0 and standardised(value[:3], alone)[2] == 0
