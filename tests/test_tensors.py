"""Time multiplies data row by row, or not at all."""

import pytest
import torch

from flowport.tensors import over


def test_time_is_reshaped_to_multiply_rows():
    t = torch.tensor([1.0, 2.0, 3.0])
    for shape in ((3,), (3, 2), (3, 1, 4, 4), (3, 3, 3)):
        x = torch.rand(shape)
        product = over(t, x) * x
        assert over(t, x).shape == (3, *(1,) * (len(shape) - 1))
        for k in range(3):
            assert torch.equal(product[k], (k + 1) * x[k])


@pytest.mark.parametrize(
    ("t", "x"),
    [
        ((1,), (8, 3)),
        ((8,), (4, 3, 8, 8)),
        ((3,), (4, 3)),
        ((), (4, 3)),
        ((4, 1), (4, 3)),
        ((4, 1, 1, 1), (4, 3, 8, 8)),
    ],
)
def test_ambiguous_shapes_are_refused(t, x):
    with pytest.raises(ValueError, match="time must have shape"):
        over(torch.rand(t), torch.rand(x))
