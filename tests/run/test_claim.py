"""One process at a time works in a folder, also among hosts: who holds it, and when a claim no longer counts."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from flowport.run import claim
from flowport.run.claim import Claim

HOLD = (
    "import sys, time; from pathlib import Path; from flowport.run.claim import Claim; "
    "print(Claim(Path(sys.argv[1])).take(), flush=True); time.sleep(60)"
)


def other_host(folder: Path, age: float) -> None:
    """A claim of another host, touched some seconds ago."""
    place = folder / ".claim"
    place.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "1", "space": "elsewhere", "token": "x"}))
    os.utime(place, (time.time() - age,) * 2)


def test_a_folder_has_one_holder_and_can_be_given_back(tmp_path: Path) -> None:
    first, second = Claim(tmp_path), Claim(tmp_path)
    assert first.take() is None
    holder = second.take()
    assert holder is not None and holder["pid"] == os.getpid()
    second.release()  # gives back nothing that it does not have
    assert second.take() is not None
    first.release()
    assert second.take() is None and second.holder() is not None
    second.release()
    assert second.holder() is None and not (tmp_path / ".claim").exists()


def test_the_claim_of_a_killed_process_of_this_host_ends_with_it(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "None\n"
    holder = Claim(tmp_path).take()
    assert holder is not None and holder["pid"] == process.pid
    process.kill()  # not waited for: a zombie has ended as well
    late = time.monotonic() + 10
    while Claim(tmp_path).holder() is not None:
        assert time.monotonic() < late
    mine = Claim(tmp_path)
    assert mine.take() is None
    mine.release()
    process.communicate()


def test_a_number_that_another_process_has_now_is_not_the_holder(tmp_path: Path) -> None:
    held = {"host": "here", "pid": os.getpid(), "born": "1", "space": claim._space(), "token": "x"}
    (tmp_path / ".claim").write_text(json.dumps(held))
    assert Claim(tmp_path).take() is None


def test_the_claim_of_another_host_counts_while_it_is_touched(tmp_path: Path) -> None:
    other_host(tmp_path, claim.SILENT - 20)
    holder = Claim(tmp_path).take()
    assert holder is not None and holder["host"] == "elsewhere"
    other_host(tmp_path, claim.SILENT + 20)
    mine = Claim(tmp_path)
    assert mine.take() is None
    mine.release()
    assert [path.name for path in tmp_path.iterdir()] == [".claim.lock"]


def test_a_claim_is_touched_as_long_as_it_is_held(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.05)
    mine = Claim(tmp_path)
    assert mine.take() is None
    os.utime(tmp_path / ".claim", (0, 0))
    late = time.monotonic() + 10
    while (tmp_path / ".claim").stat().st_mtime < 1:
        assert time.monotonic() < late
        time.sleep(0.02)
    mine.release()


def test_one_of_many_takes_over_from_the_dead(tmp_path: Path) -> None:
    for _ in range(20):
        other_host(tmp_path, claim.SILENT + 20)
        claims = [Claim(tmp_path) for _ in range(8)]
        found = list[object]()
        threads = [threading.Thread(target=lambda c=c, f=found: f.append(c.take())) for c in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.count(None) == 1
        for each in claims:
            each.release()
