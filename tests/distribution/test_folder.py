"""Files of any kind as one tensor: what is found, order, classes, splits, groups, and what is said of bad ones."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from flowport.distribution import folder as contents
from flowport.distribution.files import Files, Reading
from flowport.distribution.folder import FolderContents, collect
from flowport.errors import FlowportError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


class Repeated(Files):
    """A file "3 7" is the item 7 three times."""

    kind = "numbers"
    suffixes = (".txt",)
    unread: ClassVar = {".doc": "save them as txt first"}

    def read(self, path: Path) -> Reading:
        count, value = map(int, path.read_text().split())
        return Reading(np.full((count, 1), value), "a file of sevens" if value == 7 else "")

    def write(self, raw, path, reading) -> None:
        raise NotImplementedError

    def options(self):
        return {}


def written(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def read(folder: str, skip: bool = False, group_by: str | None = None) -> FolderContents:
    return collect(folder, Repeated(), skip, group_by)


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
    assert found.item_names()[5:8] == ("a/z.txt", "a/z.txt#1", "b/1.txt")


@pytest.mark.parametrize("names", [["a/0", "a/1"], ["0", "1"]])
def test_without_two_folders_there_are_no_classes(names, tmp_path):
    assert read(written(tmp_path / "f", {f"{name}.txt": "5 1" for name in names})).classes is None


def test_a_stray_file_beside_class_folders_is_left_out_and_named(tmp_path, caplog):
    files = {f"{name}.txt": "5 1" for name in ("a/0", "b/1", "stray")}
    with caplog.at_level(logging.WARNING):
        found = read(written(tmp_path / "f", files))
    assert found.classes.tolist() == [0] * 5 + [1] * 5 and found.class_names == ("a", "b")
    assert "1 files beside the 2 class folders" in caplog.text and "stray.txt" in caplog.text
    caplog.clear()
    most = {f"{name}.txt": "5 1" for name in ("a/0", "b/1", *"cdefg")}
    with caplog.at_level(logging.WARNING):
        assert read(written(tmp_path / "g", most)).classes is None
    assert "are no classes" in caplog.text


def test_links_are_followed_once_and_hidden_places_left_out(tmp_path, caplog):
    store = written(tmp_path / "store", {"x/0.txt": "5 1", "x/1.txt": "5 2"})
    folder = written(tmp_path / "f", {"y/2.txt": "5 3", ".hidden/3.txt": "5 4", "__MACOSX/y/4.txt": "5 5"})
    written(tmp_path / "f", {"y/.5.txt": "1 1", "y/readme.md": "x", "y/old.doc": "x"})
    os.symlink(Path(store) / "x", tmp_path / "f" / "x")
    os.symlink(tmp_path / "f", tmp_path / "f" / "y" / "above")  # a cycle
    os.symlink(tmp_path / "nowhere.txt", tmp_path / "f" / "y" / "gone.txt")
    os.mkfifo(tmp_path / "f" / "y" / "pipe.txt")
    with caplog.at_level(logging.INFO):
        found = read(folder, skip=True)
    assert found.names == ["x/0.txt", "x/1.txt", "y/2.txt"] and found.class_names == ("x", "y")
    assert "3 .txt; left out: 1 .md, 3 hidden or __MACOSX" in caplog.text
    assert "1 .doc files are not read: save them as txt first" in caplog.text
    with pytest.raises(FlowportError, match=r"a link that leads nowhere.*and 1 more"):
        read(folder)


def test_a_tenth_of_the_files_is_held_out_twice_and_every_class_in_proportion(tmp_path):
    """Files of one to three items, 160 of one class and 80 of another: 24 for the test, 16 of them of the first."""
    files = {f"{'a' if k < 160 else 'b'}/{k:03}.txt": f"{1 + k % 3} {k}" for k in range(240)}
    found = read(written(tmp_path / "f", files))
    homes = {name: found.file[rows].unique() for name, rows in found.splits().items()}
    assert {name: len(home) for name, home in homes.items()} == {"train": 192, "validation": 24, "test": 24}
    for part in ("validation", "test"):
        assert int((homes[part] < 160).sum()) == 16
    assert torch.cat(list(homes.values())).sort().values.tolist() == list(range(240)), "no file in two parts"


def test_equal_names_of_two_folders_have_equal_splits(tmp_path):
    a = read(written(tmp_path / "a", {f"{k:03}.txt": "1 1" for k in range(60)})).splits()
    b = read(written(tmp_path / "b", {f"{k:03}.TXT": f"1 {k}" for k in range(60)})).splits()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert a["test"].tolist() not in (list(range(6)), list(range(54, 60))), "neither the first nor the last ones"
    more = {f"{k:03}.txt": "1 1" for k in range(60)} | {f"0{k}a.txt": "1 1" for k in range(6)}
    c = read(written(tmp_path / "c", more))
    kept = {c.names[i] for i in c.splits()["test"].tolist()} & {f"{k:03}.txt" for k in a["test"].tolist()}
    assert len(kept) >= 4, "a few more files change few splits"


def test_files_of_one_group_lie_in_one_split(tmp_path, caplog):
    names = [f"x_y/{thing}_{k}.txt" for thing in "abcdefghijklmnopqrst" for k in range(5)]
    found = read(written(tmp_path / "f", dict.fromkeys(names, "1 1")), group_by="^(.*?)_")
    folder = str(tmp_path / "f")
    homes = {found.names[i][4]: part for part, rows in found.splits().items() for i in rows.tolist()}
    split = {(found.names[i][4], part) for part, rows in found.splits().items() for i in rows.tolist()}
    assert len(split) == len(homes) == 20 and set(homes.values()) == {"train", "validation", "test"}
    with pytest.raises(FlowportError, match=r"group_by=\( is no regular expression"):
        read(folder, group_by="(")
    with pytest.raises(FlowportError, match="matches no file name"):
        read(folder, group_by="zzz")
    with pytest.raises(FlowportError, match="makes 5 groups of 100 files; at least 10"):
        read(folder, group_by="_(.)")


def test_ten_items_are_enough(tmp_path):
    assert len(read(written(tmp_path / "ten", {"0.txt": "9 1", "1.txt": "1 1"})).items) == 10
    with pytest.raises(FlowportError, match="gives 9 items; at least 10"):
        read(written(tmp_path / "nine", {"0.txt": "8 1", "1.txt": "1 1"}))


def test_bad_files_are_listed_and_found_again_under_their_new_names(tmp_path, caplog):
    folder = written(tmp_path / "f", {f"{k}.txt": "odd" if k in (2, 5, 6) else f"2 {k}" for k in range(9)})
    with pytest.raises(FlowportError, match=r"2\.txt cannot be read \(invalid"):
        read(folder)
    (tmp_path / "f" / "2.txt").rename(tmp_path / "f" / "2b.txt")  # nothing else changes, nor does the order
    for first in ("2b", "2c"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = read(folder, skip=True)
        assert f"{first}.txt cannot be read" in caplog.text and "and 2 more (all are listed in" in caplog.text
        assert "left out: 3 of the files" in caplog.text
        assert found.items[:, 0].tolist() == [k for k in (0, 1, 3, 4, 7, 8) for _ in range(2)]
        assert found.file.tolist() == [k for k in range(6) for _ in range(2)] and len(found.names) == 6
        (tmp_path / "f" / f"{first}.txt").rename(tmp_path / "f" / "2c.txt")
    report = sorted((tmp_path / "cache").glob("*.txt"), key=lambda p: p.stat().st_mtime)[-1].read_text()
    assert [line.split("\t")[0] for line in report.splitlines()] == ["2c.txt", "5.txt", "6.txt"]


def test_notes_of_a_reader_are_said_once_with_their_number(tmp_path, caplog):
    folder = written(tmp_path / "f", {f"{k}.txt": f"2 {k}" for k in range(9)} | {"b.txt": "3 7"})
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read(folder)
        assert caplog.text.count("2 numbers a file of sevens") == 1


def test_what_a_missing_package_could_not_read_is_tried_again(tmp_path, monkeypatch):
    folder, able = written(tmp_path / "f", {f"{k}.txt": f"2 {k}" for k in range(9)}), False

    class Needing(Repeated):
        packages: ClassVar = {"numpy": "numpy"}

        def read(self, path: Path) -> Reading:
            if not able and path.stem == "3":
                raise ValueError("it needs a package")
            return super().read(path)

    monkeypatch.setattr("flowport.distribution.folder.find_spec", lambda module: None)
    assert len(collect(folder, Needing(), True).items) == 16
    able = True
    assert len(collect(folder, Needing(), True).items) == 16, "known from the cache"
    monkeypatch.undo()
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")
    assert len(collect(folder, Needing(), True).items) == 18


def test_of_two_jobs_that_ask_at_once_one_decodes(tmp_path, monkeypatch):
    folder, decoded = written(tmp_path / "f", {f"{k}.txt": f"2 {k}" for k in range(9)}), []
    plain = contents._decoded

    def slow(*words):
        decoded.append(words)
        time.sleep(0.3)
        return plain(*words)

    monkeypatch.setattr("flowport.distribution.folder._decoded", slow)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: read(folder).items, range(4)))
    assert len(decoded) == 1
    assert all(torch.equal(items, found[0]) for items in found)
