"""A dataset on disk keeps its own parts; what is missing is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from flowport.distribution import HuggingFace
from flowport.errors import FlowportError

datasets = pytest.importorskip("datasets")


def table(n: int, first: int = 0):
    grey = [Picture.fromarray(np.full((6, 6), first + k, dtype=np.uint8)) for k in range(n)]
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(3))
    return datasets.Dataset.from_dict({"image": grey, "label": [k % 3 for k in range(n)]}, kinds)


def whose(part):
    """The pixel value of every image of a part: which item of the table it was."""
    return sorted(part.raw[part.index][:, 0, 0, 0].tolist())


def test_a_dictionary_keeps_its_test_and_cuts_its_validation_from_training(tmp_path: Path):
    datasets.DatasetDict(train=table(40), test=table(12, first=100)).save_to_disk(str(tmp_path / "both"))
    found = HuggingFace(str(tmp_path / "both"), size=6, channels=1)
    train, validation, test = (whose(found.split(name)) for name in ("train", "validation", "test"))
    assert test == list(range(100, 112)) and len(validation) == 4 and sorted(train + validation) == list(range(40))
    assert found.classes == 3 and found.event_shape == (1, 6, 6)
    assert torch.equal(found.labels[found.index], torch.tensor(whose(found)) % 3)


def test_one_table_is_split_by_tenths_and_coloured(tmp_path: Path):
    table(30).save_to_disk(str(tmp_path / "one"))
    found = HuggingFace(str(tmp_path / "one"), size=4, label=None)
    assert [found.split(name).size for name in ("train", "validation", "test")] == [24, 3, 3]
    assert found.event_shape == (3, 4, 4) and found.classes == 0


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(FlowportError, match="save_to_disk"):
        HuggingFace(str(tmp_path / "nowhere"))
    table(20).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(FlowportError, match="no column 'picture'; it has image, label"):
        HuggingFace(str(tmp_path / "one"), image="picture")
    with pytest.raises(FlowportError, match="item 0 of column 'label' is no image"):
        HuggingFace(str(tmp_path / "one"), image="label")


def test_label_names_are_kept_and_a_split_without_labels_is_named(tmp_path: Path):
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    grey = [Picture.fromarray(np.full((6, 6), k, dtype=np.uint8)) for k in range(20)]
    train = datasets.Dataset.from_dict({"image": grey, "label": [k % 2 for k in range(20)]}, kinds)
    test = datasets.Dataset.from_dict({"image": grey, "label": [-1] * 20}, kinds)
    train.save_to_disk(str(tmp_path / "named"))
    assert HuggingFace(str(tmp_path / "named"), size=6).class_names == ("cat", "dog")
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "half"))
    with pytest.raises(FlowportError, match=r"half \(test\): 20 of 20 labels .* missing or negative"):
        HuggingFace(str(tmp_path / "half"), size=6)
    assert HuggingFace(str(tmp_path / "half"), size=6, label=None).classes == 0
