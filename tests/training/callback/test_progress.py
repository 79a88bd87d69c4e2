"""Lines on the progress of long work, where there is no terminal."""

import json
import logging

import lightning

from flowport import cache
from flowport.coupling import IndependentCoupling
from flowport.distribution import EightGaussians, Moons
from flowport.training.callback import ProgressBar, progress
from flowport.training.compose import compose
from tests import runs


def test_a_log_tells_the_step_the_loss_and_the_time_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        runs.run(tmp_path / "run", "trainer.log_every_n_steps=1")
    lines = [r.message for r in caplog.records if "min left" in r.message]
    assert len(lines) == 20 and lines[9].startswith("step 10 of 20, loss ")
    assert lines[-1].endswith("about 0.0 min left")


def test_a_job_of_a_sweep_notes_how_far_it_is_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "NOTED", 0.0)
    notes, plain = [], progress.write_atomically

    def noted(path, writer):
        plain(path, writer)
        notes.append(json.loads(path.read_text()))

    monkeypatch.setattr(progress, "write_atomically", noted)
    folder = runs.RunFolder(tmp_path / "run")
    folder.create()
    folder.progress.write_text("of a process that was killed")
    folder.status.write_text('{"state": "running"}')
    runs.run(folder.path)
    assert [note["step"] for note in notes] == list(range(1, 21))
    assert notes[0]["steps"] == 20 and all(note["step_seconds"] > 0 for note in notes)
    assert not folder.progress.exists()


def test_the_bar_reads_the_loss_at_logging_steps_only(monkeypatch):
    """Each number that it shows is read from the device, which waits for it."""
    read = []
    plain = ProgressBar.get_metrics

    def counted(self, trainer, module):
        read.append(trainer.global_step)
        return plain(self, trainer, module)

    monkeypatch.setattr(ProgressBar, "get_metrics", counted)
    flow, data = compose(EightGaussians(), Moons(), coupling=IndependentCoupling())
    options = {**runs.NOTHING_BUT_STEPS, "enable_progress_bar": True, "accelerator": "cpu", "log_every_n_steps": 5}
    lightning.Trainer(max_steps=20, max_epochs=1, limit_train_batches=20, callbacks=[ProgressBar()], **options).fit(
        flow, data
    )
    assert set(read) <= {0, 5, 10, 15, 20}
    assert {5, 10, 15, 20} <= set(read)


def test_steps_of_long_work_are_counted_without_a_terminal(monkeypatch, caplog):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(cache.progress("abcdef", "decoding", 6)) == list("abcdef")
    assert next(r.message for r in caplog.records) == "decoding: 1 of 6, about 100 s left"
