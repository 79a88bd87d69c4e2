"""A sweep over the user's own folders, whose files of equal names are partners: one command."""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from PIL import Image

from flowport.distribution import Glyphs

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """# @package _global_
defaults: [atlas]
hydra:
  sweeper:
    domains:
      glyphs: null
      solids: null
      notes: null
      handwriting: null
      icons:
        plain: {{distribution: image_folder, path: {folder}/sans, size: 8, channels: 1}}
        fat: {{distribution: image_folder, path: {folder}/sans_bold, size: 8, channels: 1}}
"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Sixty characters in two faces as files of equal names, and a sweep over them."""
    laws = [Glyphs(face, size=16) for face in ("sans", "sans_bold")]
    names = [name for name in laws[0].names if name in laws[1].names][:60]
    for face, law in zip(("sans", "sans_bold"), laws, strict=True):
        (tmp_path / face).mkdir()
        for name in names:
            image = law.raw[law.names.index(name), 0]
            Image.fromarray(image.numpy()).save(tmp_path / face / f"{name.split()[0]}.png")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "icons.yaml").write_text(SWEEP.format(folder=tmp_path))
    return tmp_path


def test_files_of_equal_names_are_partners(folders: Path) -> None:
    words = ["coupling=exact", "seed=0", "trainer.max_steps=2", "network.width=8", "hydra/launcher=basic"]
    words += [f"hydra.sweep.dir={folders / 'out'}"]
    command = [
        sys.executable,
        str(ROOT / "launch" / "train.py"),
        "--config-dir",
        str(folders),
        "-m",
        "sweep=icons",
        *words,
    ]
    setting = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=setting, cwd=folders, check=False)
    assert done.returncode == 0, done.stderr
    table = pandas.read_csv(folders / "out" / "atlas.csv")
    assert sorted(zip(table["source"], table["target"], strict=True)) == [("fat", "plain"), ("plain", "fat")]
    held = table["test/partner_n"]
    assert bool((held >= 4).all()) and bool((held == table["test/partner_of"]).all())
    assert "icons" not in (folders / "out" / "atlas.md").read_text()  # a group has no name on the page
    page = (folders / "out" / "study.html").read_text()
    assert page.count("data:image/png") == 3 and "http" not in page.replace("http-equiv", "")
