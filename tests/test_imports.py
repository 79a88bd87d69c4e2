"""A package that only some parts need is imported when one of them works, not before."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from flowport.distribution import AudioFolder
from flowport.distribution.files import MissingPackage
from flowport.distribution.sound_files import SoundFiles
from flowport.errors import FlowportError
from tests.distribution.folders import recordings

SOMETIMES = (
    *("soundfile", "scipy.io", "trimesh", "datasets", "transformers", "diffusers", "peft", "torchcfm"),
    *("mlxtend", "animal_shape_mnist", "espeakng_loader", "hydra_plugins"),
)
IMPORT_ALL = """
import importlib, pkgutil, sys


class Absent:
    def find_spec(self, name, path, target=None):
        if name in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
import flowport

names = [m.name for m in pkgutil.walk_packages(flowport.__path__, "flowport.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.mark.skipif(find_spec("transformers") is not None, reason="torchmetrics imports transformers where it is")
def test_every_module_is_imported_without_the_packages_of_some() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, *SOMETIMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_the_test_sees_a_package_that_is_imported_too_early() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, "safetensors"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "safetensors" in done.stderr


def test_recordings_without_their_package_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = recordings(tmp_path / "a", 12)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingPackage, match="pip install soundfile"):
        SoundFiles().read(next(folder.glob("*.wav")))
    with pytest.raises(FlowportError, match="recordings need the package soundfile and libsndfile"):
        AudioFolder(str(folder))
