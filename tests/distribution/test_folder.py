"""Files of any kind as one tensor: order, classes, splits by file, and what is said of bad ones."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from flowport.distribution.folder import FolderContents, collect
from flowport.errors import FlowportError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


def repeated(path: Path) -> np.ndarray:
    """A file "3 7" is the item 7 three times."""
    count, value = map(int, path.read_text().split())
    return np.full((count, 1), value)


def written(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def read(folder: str, skip: bool = False) -> FolderContents:
    return collect(folder, (".txt",), repeated, "repeated", skip)


def test_items_stand_in_order_of_names_and_are_labelled_by_their_first_folder(tmp_path):
    files = {
        "b/2.TXT": "3 5",
        "b/1.txt": "1 4",
        "a/z.txt": "2 1",
        "c/deep/0.txt": "4 9",
        "a/deep/a.txt": "5 0",
        "a/notes.md": "8 8",
    }
    found = read(written(tmp_path / "f", files))
    assert found.items[:, 0].tolist() == [0] * 5 + [1] * 2 + [4] + [5] * 3 + [9] * 4
    assert found.file.tolist() == [0] * 5 + [1] * 2 + [2] + [3] * 3 + [4] * 4
    assert found.classes.tolist() == [0] * 7 + [1] * 4 + [2] * 4
    assert found.names == ["a/deep/a.txt", "a/z.txt", "b/1.txt", "b/2.TXT", "c/deep/0.txt"]


@pytest.mark.parametrize("names", [["a/0", "a/1"], ["a/0", "b/1", "2"], ["0", "1"]])
def test_without_two_folders_for_all_there_are_no_classes(names, tmp_path):
    assert read(written(tmp_path / "f", {f"{name}.txt": "5 1" for name in names})).classes is None


def test_a_tenth_of_the_files_is_held_out_twice_and_every_class_in_proportion(tmp_path):
    """Files of one to three items, 160 of one class and 80 of another: 24 for the test, 16 of them of the first."""
    files = {f"{'a' if k < 160 else 'b'}/{k:03}.txt": f"{1 + k % 3} {k}" for k in range(240)}
    found = read(written(tmp_path / "f", files))
    homes = {name: found.file[rows].unique() for name, rows in found.splits().items()}
    assert {name: len(home) for name, home in homes.items()} == {"train": 192, "validation": 24, "test": 24}
    for part in ("validation", "test"):
        assert int((homes[part] < 160).sum()) == 16
    assert torch.cat(list(homes.values())).sort().values.tolist() == list(range(240)), "no file in two parts"


def test_ten_items_are_enough(tmp_path):
    assert len(read(written(tmp_path / "ten", {"0.txt": "9 1", "1.txt": "1 1"})).items) == 10
    with pytest.raises(FlowportError, match="gives 9 items; at least 10"):
        read(written(tmp_path / "nine", {"0.txt": "8 1", "1.txt": "1 1"}))


def test_bad_files_are_counted_and_found_again_under_their_new_names(tmp_path, caplog):
    folder = written(tmp_path / "f", {f"{k}.txt": "odd" if k in (2, 5, 6) else f"2 {k}" for k in range(9)})
    with pytest.raises(FlowportError, match=r"2\.txt cannot be read \(invalid"):
        read(folder)
    (tmp_path / "f" / "2.txt").rename(tmp_path / "f" / "2b.txt")  # nothing else changes, nor does the order
    for first in ("2b", "2c"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = read(folder, skip=True)
        assert f"{first}.txt and 2 more cannot be read" in caplog.text
        assert found.items[:, 0].tolist() == [k for k in (0, 1, 3, 4, 7, 8) for _ in range(2)]
        assert found.file.tolist() == [k for k in range(6) for _ in range(2)] and len(found.names) == 6
        (tmp_path / "f" / f"{first}.txt").rename(tmp_path / "f" / "2c.txt")
