"""The words of a search: what is chosen, what stays, and what holds nothing."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from flowport.errors import FlowportError
from flowport.evaluation.pareto import on_front
from flowport.run.search_space import Axis, SearchSpace


def space(*words: str) -> SearchSpace:
    return SearchSpace.of(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("word", "axis"),
    [
        ("a=x,y,x", Axis("a", ("x", "y"))),
        ("a=choice(1,2.5,x)", Axis("a", ("1", "2.5", "x"))),
        ("a=[w2],[w2,mmd]", Axis("a", ("[w2]", "[w2,mmd]"))),
        ("+a.b=interval(0.1,2)", Axis("+a.b", (), 0.1, 2, None, False, False)),
        ("a=int(interval(1,8))", Axis("a", (), 1, 8, None, True, False)),
        ("a=tag(log,interval(1e-4,1e-2))", Axis("a", (), 1e-4, 1e-2, None, False, True)),
        ("a=range(2,9,3)", Axis("a", (), 2, 8, 3, True, False)),
        ("a=range(9,2,-3)", Axis("a", (), 3, 9, 3, True, False)),
        ("a=range(0.5,2,0.5)", Axis("a", (), 0.5, 1.5, 0.5, False, False)),
    ],
)
def test_every_sweep_of_hydra_is_an_axis(word: str, axis: Axis) -> None:
    assert space(word, "b=1").parts == (axis, "b=1")


def test_words_keep_their_order_and_the_last_of_a_key_counts() -> None:
    found = space("a=1,2", "b=[3, 4]", "c=tag(log,interval(1e-4,1e-2))", "a=int(interval(1,5))")
    assert found.words({"a": 3, "c": 0.00123456789}) == ("a=3", "b=[3,4]", "c=0.00123457")
    assert [axis.key for axis in found.axes] == ["a", "c"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a=1", "hydra/sweeper=optuna has nothing to choose: give values, for instance"),
        ("a=interval(2,1)", "a=interval(2,1) holds no numbers: write the lesser one first"),
        ("a=tag(log,interval(0,1))", "above 0, whose logarithm is searched"),
        ("a=range(3,3)", "a=range(3,3,1) holds no number"),
    ],
)
def test_what_holds_nothing_is_refused(word: str, said: str) -> None:
    with pytest.raises(FlowportError) as refusal:
        space(word)
    assert said in str(refusal.value)


def test_the_front_holds_what_nothing_excels() -> None:
    points = [[1.0, 5.0], [2.0, 2.0], [5.0, 1.0], [2.0, 3.0], [5.0, 5.0], [2.0, 2.0]]
    assert on_front(points) == [True, True, True, False, False, True]
    assert on_front([[1.0]]) == [True]
