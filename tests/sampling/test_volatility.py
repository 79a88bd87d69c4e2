"""Volatilities are their formulas; the laws they obey are in tests/laws/test_memory.py and test_marginal.py."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.errors import FlowportError
from flowport.path import LinearPath, TrigonometricPath
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, SineVolatility, ZeroVolatility

T = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)


def test_formulas():
    role = SourceIsNoise()
    assert ZeroVolatility()(T, LinearPath(), role).tolist() == [0, 0, 0, 0]
    assert ConstantVolatility(0.7)(T, LinearPath(), role).tolist() == [0.7] * 4
    assert SineVolatility(2)(T, LinearPath(), role).tolist() == pytest.approx([0, 2 * 0.5**0.5, 2, 0], abs=1e-12)
    # 2α(α β̇/β − α̇) = π (cos²/sin · cos + sin cos) = π cot(πt/2) for the trigonometric path
    inner = T[1:3]
    torch.testing.assert_close(
        MemorylessVolatility()(inner, TrigonometricPath(), role) ** 2, torch.pi / torch.tan(torch.pi / 2 * inner)
    )


def test_memoryless_stays_its_offset_away_from_both_ends():
    g = MemorylessVolatility(0.1)(T, LinearPath(), SourceIsNoise()) ** 2
    assert g.tolist() == pytest.approx([18, 6, 2, 2 / 9])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantVolatility(0),
        lambda: SineVolatility(-1),
        lambda: MemorylessVolatility(0),
        lambda: MemorylessVolatility(0.5),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(FlowportError, match="volatility="):
        make()
