"""A translator leaves the field in the mode in which it found it."""

import pytest
import torch

from flowport.coupling import IndependentCoupling
from flowport.distribution import Gaussian, Moons
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver import Heun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.training.compose import compose
from flowport.types import Sample


def test_the_mode_of_the_field_is_restored_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source, points, noise = Gaussian(2), Sample(torch.zeros(3, 2)), torch.Generator()
    field = compose(source, Moons(), coupling=IndependentCoupling())[0].field
    translator = Translator(field, Heun(), UniformGrid(2), ZeroVolatility())
    likelihood = Likelihood(field, source, Heun(), UniformGrid(2), ExactDivergence())
    modes = []
    for mode in (True, False):
        field.train(mode)
        translator.forward(points, noise), likelihood.log_prob(points, noise)
        modes.append(field.training)
    monkeypatch.setattr(Heun, "solve", lambda *_: 1 / 0)
    for use in (translator.forward, likelihood.log_prob):
        field.train()
        with pytest.raises(ZeroDivisionError):
            use(points, noise)
        modes.append(field.training)
    assert modes == [True, False, True, True]
