"""Every yaml of the family builds its member with the defaults of its class."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from flowport.distribution import Distribution
from flowport.randomness import Randomness

FILES = sorted(Path(__file__).parents[2].glob("configs/distribution/*.yaml"))
PROMISED = {
    "box",
    "brass",
    "capsule",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "ellipsoid",
    "flute",
    "gaussian",
    "glyphs",
    "knot",
    "mixture",
    "mnist",
    "mnist_cloud",
    "moons",
    "s_curve",
    "silhouettes",
    "silhouettes_cloud",
    "solid_views",
    "sphere",
    "superquadric",
    "tensor_file",
    "torus",
}


def test_the_family_is_complete():
    assert {f.stem for f in FILES} >= PROMISED


@pytest.mark.parametrize("file", [f for f in FILES if f.stem in PROMISED], ids=lambda f: f.stem)
def test_yaml_builds_and_knows_its_class(file, tmp_path):
    np.save(tmp_path / "x.npy", np.eye(12))
    config = OmegaConf.load(file)
    if file.stem.endswith("_folder"):
        return  # tests/distribution/test_user_folders.py
    if file.stem == "tensor_file":
        config.path = str(tmp_path / "x.npy")
    law = instantiate(config)
    assert isinstance(law, Distribution)
    sample = law.items(0, 5, Randomness(0))
    assert sample.x.shape == (5, *law.event_shape)
    assert isinstance(law.event_shape, tuple)
    for name, parameter in inspect.signature(get_class(config._target_)).parameters.items():
        if name in config and isinstance(parameter.default, int | float | str):
            assert config[name] == parameter.default, name


def test_shapes_and_matrices_from_the_command_line():
    config = OmegaConf.load(FILES[0].parent / "gaussian.yaml")
    image = instantiate(OmegaConf.merge(config, OmegaConf.from_dotlist(["event_shape=[1,16,16]"])))
    assert image.event_shape == (1, 16, 16)
    assert image.standard_gaussian
    tilted = instantiate(
        OmegaConf.merge(config, OmegaConf.from_dotlist(["covariance=[[1,0.5],[0.5,1]]", "mean=[1,2]"]))
    )
    assert tilted.covariance.tolist() == [[1, 0.5], [0.5, 1]]
