"""Numbers per item by hand, and a table that is read as it was written."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowport.data.agreement import agreed
from flowport.distribution.base import Stored
from flowport.errors import FlowportError
from flowport.evaluation.items import ItemTable, item_numbers, item_table, ranks, read_items, rms, write_confusion
from flowport.metric.base import EvaluationResult
from flowport.modality import Plane
from flowport.types import Sample


class Sides(nn.Module):
    """Class 1 right of 0, class 0 left of it; the features are the points."""

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0]], 1)


def stored(x: Tensor, labels: list[int], names: tuple[str, ...], class_names: tuple[str, ...]) -> Stored:
    every = torch.arange(len(x))
    splits = {"train": every, "validation": every, "test": every}
    return Stored("points", x, torch.tensor(labels), Plane(), splits, "test", len(class_names), class_names, names)


SOURCE = torch.tensor([[-1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
TARGET = torch.tensor([[1.0, 0.0], [-2.0, 1.0], [3.0, 3.0], [-1.0, 0.0]])
RESULT = torch.tensor([[-1.0, 0.0], [-2.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
NAMES = ("a.png", "b.png", "c.png", "d.wav#1")


def outcome(result: Tensor = RESULT, **more: object) -> EvaluationResult:
    label = torch.tensor([0, 0, 1, 2])
    return EvaluationResult(
        source=Sample(SOURCE, label, id=torch.arange(4)),
        result=result,
        target=Sample(TARGET),
        floor=Sample(TARGET),
        times=torch.tensor([0.0, 1.0]),
        states=torch.stack([SOURCE, result]),
        **more,  # type: ignore[arg-type]
    )


def sides(target_names: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg", "x.jpg")) -> tuple[Stored, Stored]:
    source = stored(SOURCE, [0, 0, 1, 2], NAMES, ("left", "right", "odd"))
    return source, stored(TARGET, [1, 0, 1, 0], target_names, ("left", "right"))


def test_the_columns_of_four_items_by_hand() -> None:
    table = item_table(outcome(back=lambda at: SOURCE[at] + 0.5), *sides(), Sides())
    assert table.names == list(NAMES) and table.groups == ["a.png", "b.png", "c.png", "d.wav"]
    assert table.text == {
        "class": ["left", "left", "right", "odd"],
        "class_after": ["left", "left", "right", "right"],
        "partner": ["a.jpg", "b.jpg", "c.jpg", ""],
    }
    nan = math.nan
    want = {
        "class_kept": [1, 1, 1, nan],  # the target has no odd
        "class_kept_untranslated": [1, 1, 1, nan],
        "distance": [2**0.5, 0.5**0.5, 6.5**0.5, nan],  # (2² + 0²)/2, (0 + 1)/2, (2² + 3²)/2
        "distance_untranslated": [2**0.5, 0.5**0.5, 4.5**0.5, nan],
        "rank": [3, 1.5, 4, nan],  # of (−1, 0): d at 0, b at √2, a at 2; of (−2, 0): b and d at 1
        "rank_untranslated": [3, 1.5, 2, nan],
        "feature_distance": [2**0.5, 0.5**0.5, 6.5**0.5, nan],
        "feature_distance_untranslated": [2**0.5, 0.5**0.5, 4.5**0.5, nan],
        "transport_cost": [0, 0, 4, 1],
        "cycle_error": [0.5, 0.5, 0.5, 0.5],
    }
    assert table.numbers.keys() == want.keys() and table.absent == {}
    for column, values in want.items():
        torch.testing.assert_close(
            table.numbers[column], torch.tensor(values, dtype=torch.float64), equal_nan=True, msg=column
        )
    assert table.candidates == 4


def test_means_have_errors_and_metrics_keep_their_names() -> None:
    table = item_table(outcome(), *sides(), Sides())
    found = item_numbers(table, {"transport_cost": 1.25, "class_preservation": 1.0})
    assert found["item_n"] == 4 and found["item_rank_chance"] == 2.5 and found["item_rank_of"] == 4
    assert found["item_rank"] == pytest.approx((3 + 1.5 + 4) / 3)
    assert found["item_distance_untranslated"] == pytest.approx((2**0.5 + 0.5**0.5 + 4.5**0.5) / 3)
    assert {"item_rank_se", "item_rank_se_untranslated", "transport_cost_se", "class_preservation_se"} <= found.keys()
    assert not {"item_transport_cost", "item_class_kept", "item_cycle_error"} & found.keys()
    assert found["transport_cost_se"] == pytest.approx(float(torch.tensor([0.0, 0, 4, 1]).std()) / 2, rel=0.1)


def test_what_cannot_be_computed_is_no_column_and_has_a_reason() -> None:
    source, target = sides(("k.jpg", "l.jpg", "m.jpg", "n.jpg"))
    table = item_table(outcome(), source, target)
    assert table.numbers.keys() == {"transport_cost"}
    assert table.absent.keys() == {"class_after", "distance, rank", "cycle_error"}

    def refused(at: Tensor) -> Tensor:
        raise FlowportError("forwards only")

    assert item_table(outcome(back=refused), source, target).absent["cycle_error"] == "forwards only"
    with pytest.raises(FlowportError, match="NaN"):
        item_table(outcome(RESULT * math.nan), source, target)


@pytest.mark.parametrize("equal", [1, 3, 7])
def test_targets_at_one_distance_share_their_ranks(equal: int) -> None:
    """A constant translation has the rank of chance, whichever of equal targets is the partner."""
    x = Sample(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    other = Sample(torch.cat([torch.full((equal, 8), 9.1), torch.full((2, 8), 50.0)]))
    for partner in range(equal):
        found = ranks(x, other, torch.full((5,), partner))
        torch.testing.assert_close(found, torch.full((5,), (equal + 1) / 2, dtype=torch.float64))


def test_padding_counts_nowhere() -> None:
    mask = torch.tensor([[True, True, False]])
    a, b = Sample(torch.tensor([[1.0, 2.0, 99.0]]), mask=mask), Sample(torch.tensor([[1.0, 4.0, -99.0]]))
    assert float(rms(a, b)) == pytest.approx(2**0.5)
    others = Sample(torch.tensor([[1.0, 4.0, -99.0], [1.0, 9.0, 99.0]]))
    assert float(ranks(a, others, torch.tensor([0]))) == 1
    assert float(ranks(Sample(a.x), others, torch.tensor([0]))) == 2


def test_a_table_is_read_as_it_was_written() -> None:
    source, target = sides()
    table = item_table(outcome(), source, target, Sides())
    table = ItemTable(["=cmd|x", "b,c\n.png", 'd"e', "+1"], table.text, table.numbers)
    text = table.as_csv()
    assert text.splitlines()[0].startswith("item,class,class_after,partner,class_kept,") and "'=cmd" in text
    again = read_items(text, "items.csv")
    assert again.names == table.names and again.text == table.text
    for column, values in table.numbers.items():
        torch.testing.assert_close(again.numbers[column], values, rtol=1e-8, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "item\n",
        "name,rank\na,1\n",
        "item,rank\na,1\na,2\n",
        "item,rank\na\n",
        "item,rank\na,word\n",
        "item,rank\na,inf\n",
    ],
)
def test_an_odd_table_is_refused_by_name(text: str) -> None:
    with pytest.raises(FlowportError, match=r"job/items\.csv"):
        read_items(text, "job/items.csv")


def test_examples_do_not_depend_on_the_order_and_those_with_partners_come_first() -> None:
    names = [str(k) for k in range(30)]
    one, other = ItemTable(names), ItemTable(names[::-1])
    assert [one.names[k] for k in one.examples()] == [other.names[k] for k in other.examples()]
    some = ItemTable(names, {"partner": ["x" if k in (3, 5) else "" for k in range(30)]})
    assert set(some.examples()[:2]) == {3, 5} and len(some.examples()) == 8


def test_a_confusion_is_counted_and_drawn(tmp_path: Path) -> None:
    counts = item_table(outcome(), *sides(), Sides()).confusion()
    assert counts is not None and counts["left"] == {"left": 2} and counts["odd"] == {"right": 1}
    write_confusion(counts, ["left", "right"], tmp_path / "c.csv", tmp_path / "c.png")
    assert (tmp_path / "c.csv").read_text().splitlines() == ["class,left,right", "left,2,0", "odd,0,1", "right,0,1"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_agreed_sides_number_a_class_that_the_target_lacks_after_its_own() -> None:
    source, target = agreed(*sides())
    table = item_table(outcome(), source, target, Sides())
    assert table.text["class"][3] == "odd" and math.isnan(float(table.numbers["class_kept"][3]))
