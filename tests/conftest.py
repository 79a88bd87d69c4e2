"""Runs that several tests look at."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests import runs

SLOW = ("run", "training", "problem", "benchmarks", "agreement")
"""Folders of tests that train; they and what is marked slow are left to ``make test-all``."""
SLOW_FILES = (
    "test_experiments.py",
    "test_flow_matching_objective.py",
    "test_guidance.py",
    "test_process_plot.py",
    "test_likelihood_command.py",
    "test_config.py",
    "test_syncs.py",
    "test_readme.py",
    "test_space.py",
    "test_order.py",
    "test_samplers.py",
    "test_tuning_methods.py",
    "test_tuning_minimum.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that train, or solve to high precision, as slow."""
    root = Path(__file__).parent
    for item in items:
        place = Path(item.path).relative_to(root)
        if place.parts[0] in SLOW or place.name in SLOW_FILES:
            item.add_marker("slow")


def pytest_configure() -> None:
    """Let CUDA, where there is one, read its variables before tests change them: it reads them once in a process."""
    if torch.cuda.is_available():
        torch.cuda.init()


def _no_cuda() -> bool:
    return False


def _no_devices() -> int:
    return 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is not marked gpu sees no CUDA, nor do its fixtures and its processes: its numbers are the CPU's."""
    if item.get_closest_marker("gpu"):
        return (yield)
    with (
        mock.patch.object(torch.cuda, "is_available", _no_cuda),
        mock.patch.object(torch.cuda, "device_count", _no_devices),
        mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}),
    ):
        return (yield)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    runs.run(folder)
    return folder
