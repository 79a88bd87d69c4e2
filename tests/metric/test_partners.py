"""Partners among held-out targets: ranks, their chances, masks, classes, and refusals."""

from dataclasses import replace

import pytest
import torch

from flowport.distribution import Brass, Flute, Gaussian, Glyphs, Notes, TensorFile
from flowport.errors import FlowportError
from flowport.metric import EvaluationResult, Partners, retrieval
from flowport.metric.partners import COLUMNS, chance_of
from flowport.types import Sample


def outcome(result, candidates, at=None, source=None):
    n = len(result)
    start = source if source is not None else Sample(torch.zeros(n, result.shape[1] + 1))
    return EvaluationResult(
        source=start,
        result=result,
        target=candidates,
        floor=candidates,
        times=torch.tensor([0.0, 1.0]),
        states=torch.stack([result, result]),
        candidates=candidates,
        partner_at=at,
    )


def numbers(*outcomes):
    metric = Partners()
    for each in outcomes:
        metric.update(each)
    return {name: float(value) for name, value in metric.compute().items()}


def test_columns_are_those_of_a_loop():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=draw), torch.randn(11, 3, generator=draw)
    partner = torch.rand(7, 11, generator=draw) < 0.3
    partner[:, 0] = True
    found = dict(zip(COLUMNS, retrieval(Sample(x), Sample(y), partner).T, strict=True))
    for i in range(7):
        gaps = [float((x[i].double() - y[j].double()).square().mean().sqrt()) for j in range(11)]
        mine, rest = (
            [g for g, p in zip(gaps, partner[i].tolist(), strict=True) if p is want] for want in (True, False)
        )
        assert float(found["near"][i]) == pytest.approx(sum(mine) / len(mine))
        assert float(found["far"][i]) == pytest.approx(sum(gaps) / 11)
        nearer = [sum(g < own for g in rest) / len(rest) for own in mine]
        assert float(found["rank"][i]) == pytest.approx(sum(nearer) / len(nearer))
        first = 1 + sum(g < min(mine) for g in rest)
        assert float(found["mrr"][i]) == pytest.approx(1 / first)
        assert float(found["top1"][i]) == (first == 1)


def test_a_translation_to_the_partner_has_distance_and_rank_0_and_one_to_another_item_does_not():
    targets = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    right = numbers(outcome(targets, Sample(targets), torch.arange(40)))
    assert (
        right["partner_distance"] == right["partner_rank"] == 0 and right["partner_mrr"] == right["partner_top1"] == 1
    )
    wrong = numbers(outcome(targets.roll(1, 0), Sample(targets), torch.arange(40)))
    assert wrong["partner_distance"] > 0.8 and wrong["partner_top1"] == 0
    assert wrong["partner_n"] == wrong["partner_of"] == 40


def test_random_translations_have_the_values_of_chance_within_three_errors():
    draw = torch.Generator().manual_seed(2)
    targets = torch.randn(60, 4, generator=draw)
    found = numbers(
        *(outcome(torch.randn(60, 4, generator=draw), Sample(targets), torch.randperm(60)) for _ in range(30))
    )
    for name in ("rank", "mrr", "top1"):
        gap = found[f"partner_{name}"] - found[f"partner_{name}_chance"]
        assert abs(gap) < 3 * found[f"partner_{name}_se"], name
    assert abs(found["partner_distance"] - 1) < 3 * found["partner_distance_se"] + 0.02


def test_the_chance_of_k_partners_is_that_of_random_orders():
    draw = torch.Generator().manual_seed(3)
    partner = torch.zeros(2, 9, dtype=torch.bool)
    partner[0, :1], partner[1, :3] = True, True
    found = chance_of(partner)
    for row, k in enumerate((1, 3)):
        best = torch.stack([torch.randperm(9, generator=draw)[:k].min() for _ in range(20_000)]).double() + 1
        assert float((1 / best).mean()) == pytest.approx(float(found[row, 0]), abs=0.01)
        assert float((best == 1).double().mean()) == pytest.approx(float(found[row, 1]), abs=0.012)


def test_equal_distances_count_one_half():
    targets = torch.zeros(5, 2)
    found = numbers(outcome(torch.zeros(2, 2), Sample(targets), torch.tensor([0, 3])))
    assert found["partner_rank"] == 0.5 and found["partner_top1"] == pytest.approx(1 / 5)


def test_padding_is_no_part_of_a_distance():
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    known = torch.ones(6, 4, dtype=torch.bool)
    known[:, 3] = False
    padded = targets.clone()
    padded[:, 3] = 100 * torch.arange(6)
    found = numbers(outcome(targets, Sample(padded, mask=known), torch.arange(6)))
    assert found["partner_top1"] == 1 and found["partner_distance"] == 0


def test_without_names_all_targets_of_the_class_are_partners():
    label = torch.tensor([0, 0, 1, 1, 1])
    targets = Sample(torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]]), label)
    source = Sample(torch.zeros(2, 3), torch.tensor([0, 1]))
    right = numbers(outcome(torch.tensor([[0.4], [11.2]]), targets, None, source))
    assert right["partner_rank"] == 0 and right["partner_top1"] == right["partner_class"] == 1
    assert right["partner_top1_chance"] == pytest.approx((2 / 5 + 3 / 5) / 2) == right["partner_class_chance"]
    wrong = numbers(outcome(torch.tensor([[11.2], [0.4]]), targets, None, source))
    assert wrong["partner_rank"] == 1 and wrong["partner_class"] == 0


def test_items_without_a_partner_are_left_out():
    targets = torch.randn(8, 3, generator=torch.Generator().manual_seed(5))
    at = torch.arange(8)
    at[::2] = -1
    found = numbers(outcome(targets, Sample(targets), at))
    assert found["partner_n"] == 4 and found["partner_of"] == 8 and found["partner_rank"] == 0


def test_batches_are_one():
    draw = torch.Generator().manual_seed(6)
    targets = Sample(torch.randn(12, 3, generator=draw), torch.arange(12) % 3)
    whole = outcome(
        torch.randn(12, 3, generator=draw), targets, torch.arange(12), Sample(torch.zeros(12, 3), torch.arange(12) % 3)
    )

    def some(rows):
        return replace(whole, source=whole.source[rows], result=whole.result[rows], partner_at=whole.partner_at[rows])

    assert numbers(some(slice(0, 5)), some(slice(5, 12))) == pytest.approx(numbers(whole))


def test_data_without_partners_and_classes_are_refused(tmp_path):
    with pytest.raises(FlowportError, match="metric=partners needs partners"):
        Partners().check(Gaussian(), Gaussian())
    torch.save(torch.randn(30, 2), tmp_path / "x.pt")
    plain = TensorFile(str(tmp_path / "x.pt"))
    with pytest.raises(FlowportError, match="have neither"):
        Partners().check(plain, plain)
    Partners().check(Glyphs("sans"), Glyphs("serif"))
    Partners().check(Notes(Flute(), 0, train=10), Notes(Brass(), 1, train=10))  # partners in the test split alone
    with pytest.raises(FlowportError, match="analytic law"):
        Partners().update(replace(outcome(torch.zeros(1, 2), Sample(torch.zeros(2, 2))), candidates=None))
