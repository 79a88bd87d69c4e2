"""The accuracy of a row depends on no other row, and a field that runs away ends in a sentence."""

import math

import pytest
import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.sampling.dynamics import FunctionProcess
from flowport.sampling.solver import Dopri5

TIMES = torch.linspace(0, 1, 3)


def turning(x: Tensor, t: Tensor) -> Tensor:
    """Thirty radians about the origin, where all other rows rest."""
    return 30 * torch.stack([x[:, 1], -x[:, 0]], 1)


def test_a_row_among_thousands_at_rest_is_as_exact_as_alone() -> None:
    exact, ends = torch.tensor([math.cos(30), -math.sin(30)]), []
    for n in (1, 4096):
        x = torch.zeros(n, 2)
        x[0, 0] = 1
        ends.append(Dopri5().solve(FunctionProcess(turning), x, TIMES, torch.Generator()).end[0])
        assert float((ends[-1] - exact).norm()) < 1e-3
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


@pytest.mark.parametrize("field", [lambda x, t: 50 * x**2, lambda x, t: x / (x - x)], ids=["runs away", "nan"])
def test_a_field_that_cannot_be_followed_is_refused(field) -> None:
    with pytest.raises(FlowportError, match=r"solver=dopri5 does not reach t = 1 within its tolerances"):
        Dopri5().solve(FunctionProcess(field), torch.ones(4, 2), TIMES, torch.Generator())
