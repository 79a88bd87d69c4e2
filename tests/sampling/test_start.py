"""The start of a coupled flow on a path that begins with a share of the target."""

import pytest
import torch

from flowport.capabilities import Capabilities, NoNoise, SourceIsNoise
from flowport.conditioning import Unconditional
from flowport.field.analytic import AnalyticField, JointMixture
from flowport.path import LinearPath, VarianceExplodingPath
from flowport.prediction import EDMPrediction, VelocityPrediction
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import Dopri5
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Sample

SLOPE, MEAN = 2.0, 3.0


def translated(path, prediction, role=None):
    """Of the coupling x1 = MEAN + SLOPE x0, whose map is known."""
    one = torch.eye(1, dtype=torch.float64)
    joint = JointMixture.gaussian(0 * one[0], one, MEAN * one[0], SLOPE**2 * (1 + 1e-9) * one, SLOPE * one)
    field = AnalyticField(joint, path, prediction, Unconditional(), Capabilities(role or NoNoise(), role is not None))
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    solver = Dopri5(1e-9, 1e-9)
    found = Translator(field, solver, UniformGrid(1), ZeroVolatility(), chunk=4).forward(Sample(x0), torch.Generator())
    return found, (MEAN + SLOPE * x0 - found.end).abs()


@pytest.mark.parametrize("prediction", [VelocityPrediction(), EDMPrediction(2.0, 1.0)])
def test_the_share_of_the_target_is_estimated_where_the_start_depends_on_it(prediction):
    """Without it the error is (MEAN + SLOPE x0) SLOPE/(20 + SLOPE), with it that to the second order."""
    path, x1 = VarianceExplodingPath(), MEAN + SLOPE * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    share = SLOPE / (20 + SLOPE)
    error = translated(path, prediction)[1]
    assert float((error - (x1 * share**2).abs()).abs().max()) < 0.01
    plain = translated(path, prediction, SourceIsNoise())[1]
    assert float((plain - (x1 * share).abs()).abs().max()) < 0.03
    assert translated(path, prediction)[0].nfe == translated(path, prediction)[0].nfe > 1


def test_a_path_without_a_gap_starts_from_the_source_itself():
    assert float(translated(LinearPath(), VelocityPrediction())[1].max()) < 1e-6
