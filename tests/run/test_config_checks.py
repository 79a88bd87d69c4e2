"""Values of a config against the signatures of the classes that they build: kinds, ranges, families, sizes."""

import inspect
import re
from pydoc import locate
from typing import get_args

import pytest
from omegaconf import OmegaConf

import flowport as fp
from flowport.coupling import SinkhornCoupling
from flowport.errors import Checked, FlowportError, ranged_hints
from flowport.metric import MMD, Wasserstein
from flowport.run.build import check
from flowport.run.config_checks import check_keys, check_values
from flowport.run.trust import known_classes
from tests.test_configs import composed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("scheduler.warmup=-5", "scheduler.warmup=-5 is too small"),
        (
            "scheduler=cosine scheduler.floor=2",
            "scheduler.floor=2 is too large",
        ),
        ("data.prefetch=-1", "data.prefetch=-1 is too small: data.prefetch must be"),
        ("data.prefetch=1000000000000", "data.prefetch=1000000000000 is too large: data.prefetch must be"),
        ("data.validation_items=0", "data.validation_items=0 is too small"),
        (
            "data.validation_items=1000000000000",
            "data.validation_items=1000000000000 is too large",
        ),
        ("evaluation_items=1000000000000", "evaluation_items=1000000000000 is too large: evaluation_items must be"),
        ("metric.wasserstein.points=-1", "metric.wasserstein.points=-1 is too small"),
        ("path.noise=nan", "path.noise=nan is not a finite number"),
        ("coupling=sinkhorn coupling.epsilon=inf", "coupling.epsilon=inf is not a finite number"),
        ("grid=power grid.power=nan", "grid.power=nan is not a finite number"),
        ("seed=-1", "seed=-1 is too small: seed must be"),
        ("threads=100000000000", "threads=100000000000 is too large: threads must be"),
        ("objective.weighting=min_snr", "write weighting@objective.weighting=min_snr"),
        ("objective.time_sampler=power", "write time_sampler@objective.time_sampler=power"),
        (
            "objective.weighting=null",
            "objective.weighting must be a part",
        ),
        ("coupling.cost=hog", "write cost@coupling.cost=hog"),
        (
            "network.activation=relu",
            "network.activation must be a part with a _target_",
        ),
        (
            "network=dit network.patch=2",
            "network.patch=2 is of the wrong kind: network.patch must be a list",
        ),
    ],
)
def test_one_sentence_names_the_key_and_what_to_write(words, sentence):
    with pytest.raises(FlowportError, match=re.escape(sentence)):
        check(composed("experiment=none", *words.split()))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "path._target_",
            "flowport.sampling.grid.UniformGrid",
            "path._target_=flowport.sampling.grid.UniformGrid is of ",
        ),
        ("path._target_", "flowport.path.Nope", "path._target_=flowport.path.Nope does not exist"),
        ("path._args_", [1], "path._args_ is not supported: write the options of path by name"),
        ("path.nope", 1, "path.nope is unknown"),
        ("network", [1], "network=[1] is no part"),
        ("network", None, "network=None is no part"),
        ("optimizer", {"lr": 1}, "is no part: the config of a run has a _target_ there"),
        ("metric", ["wasserstein"], "metric=['wasserstein'] must hold metrics by name"),
        ("trainer", "cpu", "trainer=cpu must hold options"),
        ("seed", None, "seed is missing or null"),
    ],
)
def test_a_config_edited_by_hand_is_refused_by_its_key(key, value, sentence):
    config = composed("experiment=none")
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, value, merge=False)
    with pytest.raises(FlowportError, match=re.escape(sentence)):
        check(config)


@pytest.mark.parametrize("value", ["maybe", "yes", 5, None, [], "true"])
def test_trust_is_true_or_false_and_nothing_else(value):
    with pytest.raises(FlowportError, match=r"trust=.* is of the wrong kind: trust must be true or false"):
        check_keys(OmegaConf.create({"trust": value}))


def test_every_number_of_every_part_is_checked_from_python_as_well():
    for build in (
        lambda: Wasserstein(points=1),
        lambda: MMD(bandwidths=[-1.0]),
        lambda: SinkhornCoupling(tolerance=float("nan")),
        lambda: fp.Gaussian(mean=float("inf")),
    ):
        with pytest.raises(FlowportError, match=r"is too small|is not a finite number"):
            build()


def test_every_class_with_a_number_that_a_config_builds_checks_it():
    unchecked = []
    for name in sorted(known_classes()):
        made = locate(name)
        if not name.startswith("flowport.") or not inspect.isclass(made) or "__init__" not in made.__dict__:
            continue
        hints = [h for key, h in ranged_hints(made.__init__).items() if key != "return"]
        if any(h in (int, float) or {int, float} & set(get_args(h)) for h in hints) and not issubclass(made, Checked):
            unchecked.append(name)
    assert unchecked == []


def test_a_config_is_not_changed_by_its_check():
    config = composed("experiment=none")
    before = OmegaConf.to_yaml(config)
    check(config)
    check_values(config)
    assert OmegaConf.to_yaml(config) == before
