"""Time multiplies data row by row, or not at all."""

import warnings

import pytest
import torch

from flowport.tensors import float32_products, noise_like, over, standard_error


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


def test_noise_is_drawn_where_its_generator_is_and_lies_where_its_points_do():
    def drawn(x):
        return noise_like(x, torch.Generator().manual_seed(3))

    x = torch.empty(5, 2, 3, dtype=torch.float64)
    plain = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(drawn(x), plain)
    elsewhere = drawn(x.to("meta"))
    assert elsewhere.device.type == "meta" and elsewhere.shape == x.shape and elsewhere.dtype == x.dtype


def precision() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture
def cuda(monkeypatch):
    before = precision()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_the_precision_of_products_is_that_of_the_context_and_comes_back(cuda):
    before = precision()
    with float32_products(tf32=True):
        assert precision() == ("high", True)
        with float32_products(tf32=False):
            assert precision() == ("highest", False)
        assert precision() == ("high", True)
    with pytest.raises(ZeroDivisionError), float32_products(tf32=True):
        1 / 0  # noqa: B018
    assert precision() == before


def test_without_cuda_no_switch_is_moved(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = precision()
    with float32_products(tf32=True):
        assert precision() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_products_without_tf32_are_those_of_float32():
    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    image, kernel = a.view(1, 16, 64, 64), b.view(-1)[: 16 * 16 * 9].view(16, 16, 3, 3)

    def error(tf32):
        with float32_products(tf32):
            found = [(a.cuda() @ b.cuda()).cpu(), torch.conv2d(image.cuda(), kernel.cuda()).cpu()]
        exact = [a.double() @ b.double(), torch.conv2d(image.double(), kernel.double())]
        return [float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, exact, strict=True)]

    assert max(error(False)) < 1e-6
    if torch.cuda.get_device_capability() >= (8, 0):
        assert min(error(True)) > 1e-5


def test_a_standard_error_is_that_of_independent_values_and_one_value_has_none() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    torch.testing.assert_close(standard_error(values), torch.tensor([(14 / 3) ** 0.5 / 2, 0.0]))
    torch.testing.assert_close(standard_error(values.T, 0), standard_error(values))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert standard_error(values[:, :1]).isnan().all() and standard_error(values[:, :1]).shape == (2,)
