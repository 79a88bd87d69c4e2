"""Runs that several tests look at."""

from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    runs.run(folder)
    return folder
