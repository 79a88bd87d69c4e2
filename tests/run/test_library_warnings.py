"""What libraries warn of their own code does not stand beside a sentence, on any version of theirs and of Python."""

import os
import sys
import warnings
from pathlib import Path

import pytest

import flowport
from flowport.run.cli import report_errors
from tests import runs

INSTALLED = "/env/lib/python3.12/site-packages/ot/datasets.py"
OWN = str(Path(flowport.__file__).parent / "run" / "train.py")


def shown(filename: str, kind: type[Warning]) -> bool:
    """Whether a warning of a file's code reaches the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        seen: list[object] = []
        warnings.showwarning = lambda *what: seen.append(what)
        with report_errors():
            warnings.warn_explicit("this is old", kind, filename, 189)
    return bool(seen)


@pytest.fixture(autouse=True)
def no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])


@pytest.mark.parametrize("kind", [SyntaxWarning, FutureWarning, DeprecationWarning, UserWarning])
def test_a_library_warns_its_developers_and_a_user_s_file_the_user(kind: type[Warning], tmp_path: Path) -> None:
    assert not shown(INSTALLED, kind)
    assert not shown("<frozen importlib._bootstrap>", kind)
    assert not shown(str(Path(os.__file__).parent / "multiprocessing" / "popen_fork.py"), kind)
    assert shown(str(tmp_path / "my_reward.py"), kind)
    assert shown(OWN, kind)


def test_whoever_asks_for_warnings_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    assert shown(INSTALLED, FutureWarning)


def test_what_showed_warnings_before_shows_them_after() -> None:
    before = warnings.showwarning
    with pytest.raises(SystemExit), report_errors():
        raise KeyboardInterrupt
    assert warnings.showwarning is before


def test_a_sentence_stands_alone_whatever_a_library_says(tmp_path: Path) -> None:
    """torch imports pynvml where there is one, which warns that it is old."""
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "pynvml.py").write_text("import warnings\nwarnings.warn('pynvml is old', FutureWarning)\nodd = '\\d'\n")
    before = f"import sys\nsys.path.insert(0, {str(place)!r})"
    loud = runs.command("train.py", "trainer.accelerator=tpu", before=f"{before}\nimport torch.cuda, pynvml")
    assert "pynvml is old" in loud.err, "the library does not warn: the test tests nothing"
    later = (
        "import importlib.abc, sys\n"
        "class Late(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'flowport.run.build':\n"
        "            import pynvml\n"
        "sys.meta_path.insert(0, Late())"
    )
    quiet = runs.command("train.py", "trainer.accelerator=tpu", before=f"{before}\n{later}")
    assert "is not on this machine" in quiet.sentence
    assert "pynvml is old" not in quiet.err
