"""Lines on the progress of long work, where there is no terminal."""

import logging

from flowport import cache
from flowport.training.callback import progress
from tests import runs


def test_a_log_tells_the_step_the_loss_and_the_time_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        runs.run(tmp_path / "run", "trainer.log_every_n_steps=1")
    lines = [r.message for r in caplog.records if "min left" in r.message]
    assert len(lines) == 20 and lines[9].startswith("step 10 of 20, loss ")
    assert lines[-1].endswith("about 0.0 min left")


def test_steps_of_long_work_are_counted_without_a_terminal(monkeypatch, caplog):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(cache.progress("abcdef", "decoding", 6)) == list("abcdef")
    assert next(r.message for r in caplog.records) == "decoding: 1 of 6, about 100 s left"
