"""A plain function or module is a reward: how it is called, whether it has a gradient, and what is refused."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowport.distribution import Digits, EightGaussians, Gaussian
from flowport.errors import FlowportError
from flowport.reward import FromFileReward, LinearReward, PlainReward, adapted, from_code
from flowport.types import Condition

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
TOLD = Condition(torch.tensor([0, 1, 2, 0, 1, 2]))


class Plain(nn.Module):
    """A module of float32 weights with dropout, whose results are (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(2, 1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.layer(x))


def by_class(x: Tensor, condition: Condition) -> Tensor:
    """The coordinate of the class that is told, of three classes 0, 1 and minus their sum."""
    assert condition.label is not None
    return torch.cat([x, -x.sum(1, keepdim=True)], 1).gather(1, condition.label[:, None])[:, 0]


def checked(function: Any) -> PlainReward:
    reward = adapted(function)
    assert isinstance(reward, PlainReward)
    law = Gaussian(2)
    reward.check(law, law)
    return reward


def test_a_module_is_frozen_and_judges_in_its_own_precision() -> None:
    module = Plain()
    reward = checked(module)
    assert reward.called == "plain" and reward.differentiable
    value, gradient = reward.value_and_gradient(X.double(), Condition())
    torch.testing.assert_close(value, module.layer(X)[:, 0].detach())
    torch.testing.assert_close(gradient, module.layer.weight.detach().double().expand(6, 2))
    assert not any(p.requires_grad for p in module.parameters()) and not module.training


def test_a_function_of_the_condition_is_given_it() -> None:
    reward = adapted(by_class)
    torch.testing.assert_close(
        reward.value(X, TOLD), torch.stack([*X[[0, 1], [0, 1]], -X[2].sum(), *X[[3, 4], [0, 1]], -X[5].sum()])
    )
    scaled = adapted(functools.partial(lambda x, scale: scale * x[:, 0], scale=3.0))
    torch.testing.assert_close(scaled.value(X, TOLD), 3 * X[:, 0])
    optional = adapted(lambda x, condition=None: x[:, 0] if condition is None else x[:, 1])
    torch.testing.assert_close(optional.value(X, TOLD), X[:, 1])
    other = adapted(lambda x, gain=2.0: gain * x[:, 0])
    torch.testing.assert_close(other.value(X, TOLD), 2 * X[:, 0])  # a second argument with a default is no condition


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.detach().numpy()[:, 0],
        lambda x: x.numpy()[:, 0],
        lambda x: [float(v) for v in x[:, 0]],
        lambda x: x[:, :1],
        lambda x: torch.stack(list(x[:, 0])),
        lambda x: list(x[:, 0]),
    ],
    ids=["detached", "numpy", "floats", "column", "stacked", "tensors"],
)
def test_numbers_of_any_kind_are_rewards(function: Callable[[Tensor], Any]) -> None:
    torch.testing.assert_close(checked(function).value(X, Condition()), X[:, 0])


@pytest.mark.parametrize(
    ("function", "differentiable"),
    [
        (lambda x: x.square().sum(1), True),
        (lambda x: torch.zeros(len(x)) + 0 * x[:, 0], True),
        (lambda x: x.numpy().sum(1), False),
        (lambda x: x.detach().sum(1), False),
        (lambda x: (x[:, 0] > 0).float(), False),
        (lambda x: (3 * x[:, 0]).round(), False),
        (lambda x: x.argmax(1), False),
    ],
    ids=["square", "constant", "numpy", "detached", "step", "round", "integers"],
)
def test_whether_there_is_a_gradient_is_found_by_trying(
    function: Callable[[Tensor], Any], differentiable: bool
) -> None:
    assert checked(function).differentiable is differentiable


def test_what_a_function_says_of_itself_is_kept() -> None:
    module = Plain()
    module.differentiable = False  # type: ignore[assignment]
    assert checked(module).differentiable is False


def of_images(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


def told_nothing(x: Tensor, condition: Condition) -> Tensor:
    return x[:, 0] * condition.label  # type: ignore[operator]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (of_images, r"reward=of_images failed on points \(8, 2\) on cpu: .*test_plain\.py line \d+: IndexError"),
        (told_nothing, r"told_nothing failed .*; this flow is told no class"),
        (lambda x: x, r"reward=function returned the shape \(8, 2\): a reward gives one number for each point, \(8,\)"),
        (lambda x: x.mean(), r"returned the shape \(\)"),
        (lambda x: "good", "returned str"),
        (lambda x: x[:, 0].cuda(), "failed on points"),
        (lambda x, a, b: x, "bind the others"),
        (lambda: 1.0, "it takes no arguments"),
        (lambda x, *, gain: x, "takes x, gain: bind the others"),
        (Plain, "is the class Plain"),
        (3.0, "is float 3.0: give a function"),
    ],
)
def test_a_wrong_function_is_refused_in_a_sentence(function: Any, sentence: str) -> None:
    with pytest.raises(FlowportError, match=sentence) as found:
        checked(function)
    assert "\n" not in str(found.value)


def test_a_reward_of_the_batch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checked(lambda x: x[:, 0] - x[:, 0].mean())
    assert "gives a point another number" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        checked(lambda x: x.sin().sum(1))
    assert not caplog.records


def test_a_reward_stays_what_it_is() -> None:
    reward = LinearReward([1.0, 2.0])
    assert adapted(reward) is reward


def test_a_program_without_a_gradient_is_found(tmp_path: Path) -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0].round()

    for module, differentiable in ((Steps(), False), (Plain(), True)):
        chain = module if isinstance(module, Steps) else nn.Sequential(module, nn.Flatten(0))
        torch.jit.script(chain).save(str(tmp_path / "judge.pt"))
        reward = FromFileReward(str(tmp_path / "judge.pt"))
        reward.check(EightGaussians(), EightGaussians())
        assert reward.differentiable is differentiable


JUDGE = """
import torch
from flowport.reward import Reward

class Gain(torch.nn.Module):
    def __init__(self, gain, shift=0.5):
        super().__init__()
        self.gain, self.shift = gain, shift

    def forward(self, x):
        return self.gain * (x[:, 0] - self.shift)

class Own(Reward):
    def forward(self, x1, condition):
        return x1[:, 1]

def product(x, condition, *, power=1.0):
    return (x[:, 0] * x[:, 1]).abs() ** power

built = Gain(2.0)
number = 3
"""


def test_code_of_a_file_is_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text(JUDGE)
    torch.testing.assert_close(from_code(f"{file}:Gain", gain=3.0).value(X, TOLD), 3 * (X[:, 0] - 0.5))
    torch.testing.assert_close(from_code(f"{file}:Own").value(X, TOLD), X[:, 1])
    torch.testing.assert_close(from_code(f"{file}:product", power=2.0).value(X, TOLD), (X[:, 0] * X[:, 1]) ** 2)
    torch.testing.assert_close(from_code(f"{file}:built").value(X, TOLD), 2 * (X[:, 0] - 0.5))
    assert from_code(f"{file}:Gain", gain=1.0).called == "gain"
    file.write_text(JUDGE.replace("x1[:, 1]", "x1[:, 0]"))
    (
        torch.testing.assert_close(from_code(f"{file}:Own").value(X, TOLD), X[:, 0]),
        "a file that was changed is read again",
    )
    torch.testing.assert_close(from_code("flowport.reward.LinearReward", c=[1.0, 1.0]).value(X, TOLD), X.sum(1))


@pytest.mark.parametrize(
    ("code", "options", "sentence"),
    [
        ("{}/none.py:Gain", {}, "there is no file .*none.py; where it was moved after a tuning"),
        ("{}/judge.py:Gian", {}, "judge.py has no Gian; it defines Gain, Own, product"),
        ("{}/judge.py:Gain", {}, "cannot be built from its options .*missing 1 required .*'gain'"),
        ("{}/judge.py:Gain", {"kain": 1}, "cannot be built .*unexpected keyword argument 'kain'"),
        ("{}/judge.py:built", {"gain": 1}, "built already: it takes no gain"),
        ("{}/judge.py:number", {}, "is int 3: give a function"),
        ("{}/wrong.py:Gain", {}, r"wrong.py cannot be read: .*SyntaxError"),
        ("{}/beside.py:Gain", {}, "ModuleNotFoundError: .*not files beside it"),
        ("no_such_package.judge.Gain", {}, "no package no_such_package is installed; a file is named by"),
        ("flowport.reward.Nothing", {}, "flowport.reward has no Nothing"),
    ],
)
def test_code_that_is_not_there_or_fails_is_refused(tmp_path: Path, code: str, options: Any, sentence: str) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "wrong.py").write_text("class Gain(:\n")
    (tmp_path / "beside.py").write_text("import judge_beside\n")
    with pytest.raises(FlowportError, match=sentence):
        from_code(code.format(tmp_path), **options)


def test_images_of_a_data_set_are_what_a_function_is_tried_on() -> None:
    seen: list[Tensor] = []

    def judge(x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean((1, 2, 3))

    reward, law = PlainReward(judge), Digits()
    reward.check(law, law)
    assert tuple(seen[0].shape[1:]) == tuple(law.event_shape) and float(seen[0].std()) > 0.1
    assert np.isfinite(float(seen[0].mean()))
