"""Runs that several tests look at."""

from pathlib import Path

import pytest

from tests import runs


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; nobody may change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    runs.run(folder)
    return folder
