"""Sums: the product of tilts, terms that are only watched, and terms that are evaluated once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from flowport.distribution import EightGaussians
from flowport.errors import FlowportError
from flowport.modality import Image
from flowport.problem import MixtureLaw
from flowport.reward import Brightness, DecodedReward, LinearReward, PlainReward, QuadraticReward, SumReward
from flowport.types import Condition

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOTHING = Condition()
F64 = torch.float64


class Counted:
    """A function that counts its calls."""

    def __init__(self, coordinate: int) -> None:
        self.calls, self.coordinate = 0, coordinate

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x[:, self.coordinate].sin()


def two(weight: float) -> tuple[SumReward, Counted, Counted]:
    a, b = Counted(0), Counted(1)
    return SumReward({"a": a, "b": b}, {"a": 1.0, "b": weight}), a, b


def test_the_tilt_of_a_sum_is_the_product_of_the_tilts() -> None:
    """Tilting by one term after the other is tilting by the weighted sum, with the product of the normalisers."""
    law = MixtureLaw(
        torch.tensor([[0.3, 0.7]], dtype=F64).log(),
        torch.tensor([[[-1.0, 0.5], [1.5, -0.5]]], dtype=F64),
        torch.eye(2, dtype=F64).expand(2, 2, 2) * 0.4,
    )
    linear, bowl = LinearReward([0.7, -0.4]), QuadraticReward([0.1, 0.2], [[0.5, 0.1], [0.1, 0.3]])
    both = SumReward({"linear": linear, "bowl": bowl}, {"linear": 2.0, "bowl": 0.5})
    first, log_a = law.tilted(2.0 * linear.c, torch.zeros(2, 2, dtype=F64))
    second, log_b = first.tilted(0.5 * bowl.c, 0.5 * bowl.q)
    x = 3 * X
    expected = law.log_prob(x) + both.value(x, NOTHING) - log_a - log_b
    torch.testing.assert_close(second.log_prob(x), expected, rtol=1e-9, atol=1e-9)


def test_a_watched_term_changes_no_bit_and_is_evaluated() -> None:
    alone = PlainReward(Counted(0))
    watched, _, b = two(0.0)
    value, gradient = watched.value_and_gradient(X, NOTHING)
    expected = alone.value_and_gradient(X, NOTHING)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])
    assert b.calls == 0, "what is watched costs nothing while a path is judged"
    terms = watched.term_values(X, NOTHING)
    torch.testing.assert_close(terms["b"], X[:, 1].sin())
    assert watched.term_weights == {"a": 1.0, "b": 0.0}


def test_terms_are_evaluated_once_for_the_same_points() -> None:
    reward, a, b = two(-2.0)
    for ask in (reward.value, reward.value_and_gradient):
        a.calls = b.calls = 0
        ask(X, NOTHING)
        terms = reward.term_values(X, NOTHING)
        assert (a.calls, b.calls) == (1, 1)
        torch.testing.assert_close(terms["a"] - 2 * terms["b"], reward.value(X, NOTHING))


def test_other_points_are_evaluated_anew() -> None:
    reward, _, _ = two(1.0)
    x = X.clone()
    reward.value(x, NOTHING)
    x[0] += 1  # the same memory, other points
    torch.testing.assert_close(reward.term_values(x, NOTHING)["a"], x[:, 0].sin())
    reward.value(x, NOTHING)
    torch.testing.assert_close(reward.term_values(x[2:], NOTHING)["a"], x[2:, 0].sin())
    torch.testing.assert_close(reward.term_values(x.flip(0), NOTHING)["a"], x.flip(0)[:, 0].sin())
    with torch.inference_mode():
        y = x.clone()
        reward.value(y, NOTHING)
        y += 1
        torch.testing.assert_close(reward.term_values(y, NOTHING)["b"], y[:, 1].sin())


def test_terms_of_latents_are_those_of_decoded_points() -> None:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    inner = SumReward(
        {"bright": Brightness(), "watched": lambda v: v.flatten(1).std(1)}, {"bright": 2.0, "watched": 0.0}
    )
    outer = DecodedReward(inner, Image())
    assert outer.term_weights == {"bright": 2.0, "watched": 0.0}
    outer.value(x, NOTHING)
    found, expected = outer.term_values(x, NOTHING), inner.term_values(Image().observed(x), NOTHING)
    assert all(torch.equal(found[name], expected[name]) for name in expected) and len(found) == 2
    assert LinearReward([1.0]).term_values(X[:, :1], NOTHING) == {}


def test_a_sum_has_a_gradient_where_its_weighted_terms_have_one() -> None:
    law = EightGaussians()
    for weight, differentiable in ((0.0, True), (1.0, False)):
        reward = SumReward({"a": Counted(0), "step": lambda x: (x[:, 0] > 0).float()}, {"a": 1.0, "step": weight})
        reward.check(law, law)
        assert reward.differentiable is differentiable


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"a": 0.0, "b": 0.0}, "all reward.weights are 0"),
        ({"a": float("nan"), "b": 1.0}, "reward.weights.a=nan is not a finite number"),
        ({"a": 1.0}, "one weight for each reward, but reward.terms are a, b"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "one weight for each reward"),
    ],
)
def test_weights_without_sense_are_refused(weights: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence):
        SumReward({"a": Counted(0), "b": Counted(1)}, weights)
