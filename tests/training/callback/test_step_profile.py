"""The profile of a run: a trace that a viewer opens, and a table of operations."""

import json
import logging
from pathlib import Path

import pytest

from tests import runs


def test_a_profile_holds_ten_whole_steps_and_changes_no_weight(tmp_path: Path) -> None:
    runs.run(tmp_path / "plain", "trainer.max_steps=40")
    runs.run(tmp_path / "profiled", "trainer.max_steps=40", "profile=true")
    assert runs.equal(runs.weights(tmp_path / "profiled"), runs.weights(tmp_path / "plain"))
    events = json.loads((tmp_path / "profiled" / "profile.json").read_text())["traceEvents"]
    assert sum(event.get("name", "").startswith("Optimizer.step") for event in events) == 10
    table = (tmp_path / "profiled" / "profile.txt").read_text()
    assert " ms a batch under the profiler" in table
    assert "aten::addmm" in table


@pytest.mark.parametrize("steps", [15, 20])
def test_a_training_that_is_too_short_for_a_profile_says_so(
    steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    runs.run(tmp_path, f"trainer.max_steps={steps}", "profile=true")
    assert "profile=true traces batches 21 to 30: train more steps" in caplog.text
    assert not (tmp_path / "profile.json").exists()
