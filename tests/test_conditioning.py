"""What the network is conditioned on after re-pairing, and what is dropped."""

import math

import pytest
import torch

from flowport.conditioning import SourceConditioning, SourceLabelConditioning, TargetLabelConditioning, Unconditional
from flowport.distribution import EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.types import ConditionShape, Pair, Sample

N = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PAIR = Pair(Sample(torch.randn(N, 2), torch.arange(N) % 2), Sample(torch.randn(N, 2), torch.arange(N) % 8))


def test_conditions_come_from_the_right_side_and_row():
    order = torch.randperm(N, generator=generator())
    pair = PAIR.take(order, order.flip(0))
    assert vars(Unconditional().training(pair, generator())) == {"label": None, "source": None, "step": None}
    assert torch.equal(SourceConditioning().training(pair, generator()).source, PAIR.source.x[order])
    assert torch.equal(TargetLabelConditioning().training(pair, generator()).label, order.flip(0) % 8)
    assert torch.equal(SourceLabelConditioning().training(pair, generator()).label, order % 2)


def test_shapes_are_those_of_the_data():
    two, eight = Moons(), EightGaussians()
    assert Unconditional().shape(two, eight) == ConditionShape()
    assert SourceConditioning().shape(two, eight) == ConditionShape(source=True)
    assert TargetLabelConditioning().shape(two, eight) == ConditionShape(classes=8)
    assert SourceLabelConditioning().shape(two, eight) == ConditionShape(classes=2)
    assert TargetLabelConditioning().shape(eight, Moons(continuous_label=True)) == ConditionShape(values=1)
    with pytest.raises(FlowportError, match="conditioning=source_label needs labels"):
        SourceLabelConditioning().shape(Gaussian(), eight)
    with pytest.raises(FlowportError, match="conditioning=target_label needs labels"):
        TargetLabelConditioning().shape(eight, Gaussian())


@pytest.mark.parametrize("kind", [TargetLabelConditioning, SourceLabelConditioning])
def test_dropout_is_per_sample_and_at_its_rate(kind):
    label = kind(0.3).training(PAIR, generator()).label
    lost = label == -1
    assert abs(float(lost.float().mean()) - 0.3) < 5 * math.sqrt(0.21 / N)
    whole = kind().training(PAIR, generator()).label
    assert torch.equal(label[~lost], whole[~lost]) and int((whole == -1).sum()) == 0
    assert int(lost[:-1].ne(lost[1:]).sum()) > N / 4  # rows, not a whole batch


@pytest.mark.parametrize(("kind", "which"), [(TargetLabelConditioning, "target"), (SourceLabelConditioning, "source")])
def test_pairs_that_came_without_labels_are_refused_not_dropped(kind, which):
    bare = Pair(Sample(PAIR.source.x), Sample(PAIR.target.x))
    with pytest.raises(FlowportError, match=f"these {which} points came without"):
        kind().training(bare, generator())


def test_a_dropped_start_is_nan_in_whole_rows_and_the_pair_keeps_its_own():
    before = PAIR.source.x.clone()
    source = SourceConditioning(0.3).training(PAIR, generator()).source
    lost = source.isnan()
    assert torch.equal(lost.any(1), lost.all(1)) and torch.equal(source[~lost], before[~lost])
    assert abs(float(lost[:, 0].float().mean()) - 0.3) < 5 * math.sqrt(0.21 / N)
    assert torch.equal(PAIR.source.x, before)
    assert torch.equal(lost[:, 0], TargetLabelConditioning(0.3).training(PAIR, generator()).label == -1), (
        "one draw a row"
    )
    assert SourceConditioning(0.3).shape(Moons(), Moons()) == ConditionShape(source=True, droppable=True)


@pytest.mark.parametrize("kind", [SourceConditioning, TargetLabelConditioning, SourceLabelConditioning])
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_share_is_refused(kind, rate):
    with pytest.raises(FlowportError, match=f"conditioning.dropout={rate} must be at least 0 and below 1"):
        kind(rate)


def test_a_continuous_label_is_lost_as_nan_in_whole_rows():
    pair = Pair(PAIR.source, Sample(PAIR.target.x, torch.randn(N, 3)))
    label = TargetLabelConditioning(0.5).training(pair, generator()).label
    lost = label.isnan()
    assert torch.equal(lost.any(1), lost.all(1))
    assert abs(float(lost[:, 0].float().mean()) - 0.5) < 5 * math.sqrt(0.25 / N)


def test_sampling_uses_what_is_known_then():
    source, wish = PAIR.source, torch.full((N,), 3)
    assert torch.equal(TargetLabelConditioning(0.9).sampling(source, wish).label, wish)
    assert torch.equal(SourceLabelConditioning(0.9).sampling(source, wish).label, source.label)
    assert torch.equal(SourceConditioning().sampling(source, None).source, source.x)
    with pytest.raises(FlowportError, match="say which target label"):
        TargetLabelConditioning().sampling(source, None)
    with pytest.raises(FlowportError, match="input points need labels"):
        SourceLabelConditioning().sampling(Sample(source.x), wish)
