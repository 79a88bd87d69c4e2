"""Problems in one dimension, from noise and across a bridge that sees its start, whose tilts by C x are known."""

import pytest
import torch

from flowport.finetuning.tilted_field import TiltedField
from flowport.path import BrownianBridge
from flowport.reward import LinearReward
from flowport.types import Pair, Sample
from tests.laws.oracles import line
from tests.laws.tilts import F64, Scaled, from_noise, given_start

C, S2, REST = 0.9, 0.49, 0.49 - 0.21**2 / 0.25
"""The reward C x; Var x1 in the problem from noise; Var(x1 | x0) in that of the bridge."""


def noise(m=1.0, s2=S2):
    return from_noise(line([(1, 0, m, 1, s2, 0)]))


def bridge(m=1.0):
    return given_start(line([(1, 2, m, 0.25, 0.49, 0.21)]), BrownianBridge(0.8))


PROBLEMS = {"noise": (noise(), noise(1 + S2 * C)), "bridge": (bridge(), bridge(1 + REST * C))}
"""A base and its tilt by C x, given x0 on the bridge."""
problems = pytest.mark.parametrize("problem", PROBLEMS)


def drawn(problem, n, seed=0):
    """n pairs of the problem's joint law."""
    pairing, generator = PROBLEMS[problem][0].joint, torch.Generator().manual_seed(seed)
    x0 = pairing.m0 + pairing.s0[0].sqrt() * torch.randn(n, 1, dtype=F64, generator=generator)
    given = pairing.given(x0)
    x1 = given.m1[:, 0] + given.s1[:, 0, 0].sqrt() * torch.randn(n, 1, dtype=F64, generator=generator)
    return Pair(Sample(x0), Sample(x1))


def at(problem, a):
    base, goal = PROBLEMS[problem]
    return TiltedField(base, Scaled(base, goal, a))


def collected(method, field, problem, n, reward=None, seed=1):
    reward, generator = reward or LinearReward([C]), torch.Generator().manual_seed(seed)
    method.accept(field.base, reward)
    return method.collect(field, reward, 1.0, drawn(problem, n), generator)
