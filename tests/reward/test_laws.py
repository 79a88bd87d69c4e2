"""What holds for every reward: its gradient, its independence of the batch, precision, and what is refused."""

import pytest
import torch
from torch import nn

from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT
from flowport.reward import Brightness, LinearReward, Reward
from flowport.types import Condition
from tests import zoo

MEMBERS = pytest.mark.parametrize(
    ("make", "shape"), [m[1:] for m in zoo.REWARDS_OF], ids=[m[0] for m in zoo.REWARDS_OF]
)
STEP = 1e-5


def case(make, shape, n=6, seed=0):
    """A reward, points inside the range in which it is smooth, and the condition."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    if shape[0] == 2 and len(shape) == 3:  # a spectrum above the floor
        x = x + ComplexSTFT().hop / 50
    label = torch.randint(4, (n,), generator=generator)
    return make(), x, Condition(label, 0.5 * torch.randn(n, *shape, generator=generator, dtype=torch.float64))


@MEMBERS
def test_the_gradient_is_that_of_central_differences(make, shape):
    reward, x, condition = case(make, shape)
    if not reward.differentiable:
        with pytest.raises(FlowportError, match=f"reward={reward.called} has no gradient"):
            reward.value_and_gradient(x, condition)
        return
    value, gradient = reward.value_and_gradient(x, condition)
    torch.testing.assert_close(value, reward.value(x, condition), rtol=0, atol=0)
    assert gradient.shape == x.shape and float(gradient.abs().max()) > 1e-4
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        along = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        differences = reward.value(x + STEP * along, condition) - reward.value(x - STEP * along, condition)
        slope = (gradient * along).flatten(1).sum(1)
        torch.testing.assert_close(differences / (2 * STEP), slope, rtol=1e-5, atol=1e-7)


@MEMBERS
def test_a_point_is_judged_by_itself(make, shape):
    reward, x, condition = case(make, shape)
    value, order = reward.value(x, condition), torch.tensor([3, 0, 5, 1, 4, 2])
    assert value.shape == (6,)
    torch.testing.assert_close(reward.value(x[order], condition[order]), value[order], rtol=1e-12, atol=1e-12)
    alone = [reward.value(x[k : k + 1], condition[k : k + 1]) for k in range(6)]
    torch.testing.assert_close(torch.cat(alone), value, rtol=1e-12, atol=1e-12)
    assert float(value.std()) > 0


@MEMBERS
def test_inference_mode_autocast_and_half_points_change_nothing(make, shape):
    reward, x, condition = case(make, shape)
    exact = reward.value(x.bfloat16().float(), condition)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        points, told = x.bfloat16(), Condition(condition.label.clone(), condition.source.clone())
        assert points.is_inference()
        value = reward.value(points, told)
        assert value.dtype in (torch.float32, torch.float64) and not value.is_inference()
        torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-6, check_dtype=False)
        if reward.differentiable:
            again, gradient = reward.value_and_gradient(points, told)
            torch.testing.assert_close(again, value)
            assert gradient.dtype == torch.float32 and not gradient.is_inference()
    if reward.differentiable:
        outside = reward.value_and_gradient(x.bfloat16(), condition)[1]
        torch.testing.assert_close(gradient, outside, rtol=1e-5, atol=1e-6)


@MEMBERS
def test_it_never_learns_and_the_points_stay_as_they_are(make, shape):
    reward, x, condition = case(make, shape)
    before = x.clone()
    assert not any(p.requires_grad for p in reward.parameters())
    value = reward.value(x, condition)
    reward.train()
    assert not any(module.training for module in reward.modules())
    for module in reward.modules():
        module.training = True  # as if another had trained a network that is shared
    torch.testing.assert_close(reward.value(x, condition), value, rtol=0, atol=0)
    assert not any(module.training for module in reward.modules())
    assert torch.equal(x, before) and not x.requires_grad


class Told(Reward):
    """Returns what a function makes of the points."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x1, condition):
        return self.function(x1)


def broken(x):
    return torch.where(x[:, 0] > 0, x.sum(1), torch.nan)


REFUSED = [
    (
        lambda x: x.sum(1, keepdim=True),
        r"reward=told returned the shape \(64, 1\): .* one number for each point, \(64,\)",
    ),
    (lambda x: x.mean(), r"returned the shape \(\)"),
    (lambda x: [1.0] * len(x), "returned list"),
    (broken, "reward=told returned NaN for 3 of 64 points, of which 0 were not finite"),
    (lambda x: 1 / (x[:, 0] > 0).to(x.dtype), "returned an infinite value for 3 of 64"),
]


@pytest.mark.parametrize(("function", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_a_bad_result_is_refused_in_a_sentence(function, sentence):
    x = torch.ones(64, 2)
    x[[5, 20, 63], 0] = -1
    with pytest.raises(FlowportError, match=sentence):
        Told(function).value(x, Condition())


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x.detach().sum(1), "reward=told does not depend on the points"),
        (lambda x: torch.ones(len(x)), "does not depend on the points"),
        (lambda x: nn.Parameter(torch.ones(len(x))) * 1, "does not depend on the points"),
        (lambda x: (x[:, 0] - 1).abs().sqrt(), "gradient that is not finite for 61 of 64 points"),
    ],
)
def test_a_bad_gradient_is_refused_in_a_sentence(function, sentence):
    x = torch.ones(64, 2)
    x[[5, 20, 63], 0] = -1
    reward = Told(function)
    assert reward.value(x, Condition()).shape == (64,)
    with pytest.raises(FlowportError, match=sentence):
        reward.value_and_gradient(x, Condition())


def test_points_that_are_lost_already_are_named_as_such():
    x = torch.ones(8, 2)
    x[1, 0] = torch.nan
    with pytest.raises(FlowportError, match="NaN for 1 of 8 points, of which 1 were not finite themselves"):
        LinearReward([1.0, 2.0]).value(x, Condition())


def test_names_are_those_of_the_configs():
    assert [r().called for r in (Brightness, lambda: Told(abs), lambda: LinearReward([1.0]))] == [
        "brightness",
        "told",
        "linear",
    ]
    named = {name: make().called for name, make in zoo.REWARDS}
    assert all(name.startswith(called) for name, called in named.items())
