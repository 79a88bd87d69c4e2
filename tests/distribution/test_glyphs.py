"""Characters in typefaces: partners by name, one split in all faces, no held-out image in training."""

import pytest
import torch

from flowport.data.agreement import agreed, partners
from flowport.distribution import Glyphs
from flowport.distribution.glyphs import FACES
from flowport.distribution.parts import HELD_OUT, part_of
from flowport.errors import FlowportError
from flowport.evaluation.held_out import partner_items
from flowport.randomness import Randomness


def parts(law):
    return {law.names[k]: name for name, rows in law.splits.items() for k in rows.tolist()}


@pytest.mark.parametrize("face", FACES)
def test_a_character_is_held_out_in_every_face_or_in_none(face):
    law = Glyphs(face, common=["computer_modern"], size=12)
    assert all(part_of(name) == part for name, part in parts(law).items())
    assert len(law.names) == len(set(law.names)) == len(law.raw) > 90


def test_partners_are_the_same_character_and_stay_where_their_names_put_them():
    source, target = Glyphs("sans", size=16), Glyphs("serif_bold", size=16)
    assert len(source.names) > 1000
    found = partners(source, target)
    assert all(target.names[k] == name for name, k in zip(source.names, found.tolist(), strict=True) if k >= 0)
    moved = agreed(source, target)[1]
    assert parts(moved) == parts(target)
    test = partner_items(source.split("test"), target.split("test"))
    assert test is not None and float((test >= 0).double().mean()) > 0.95


def test_shares_of_held_out_names_are_as_said():
    names = [f"name {k}" for k in range(20_000)]
    for part, share in HELD_OUT.items():
        assert sum(part_of(name) == part for name in names) / 20_000 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("face", ["sans", "serif", "mono", "stix"])
def test_no_held_out_image_is_seen_in_training(face):
    law = Glyphs(face)
    seen = {law.raw[k].numpy().tobytes() for k in law.splits["train"].tolist()}
    assert not any(law.raw[k].numpy().tobytes() in seen for part in HELD_OUT for k in law.splits[part].tolist())


def test_letters_stand_upright_on_one_baseline_with_descenders_below():
    law = Glyphs("sans")
    place = {name.split()[0]: image[0] for name, image in zip(law.names, law.raw, strict=True)}
    for code in ("U+0041", "U+0045", "U+0078"):  # A, E, x
        rows = place[code].amax(1).nonzero().squeeze(1)
        assert int(rows.max()) == 20
    assert int(place["U+0067"].amax(1).nonzero().max()) > 22  # g
    tall, narrow = place["U+0054"], place["U+0069"]  # T is wide at its top, i is narrow
    top = int(tall.amax(1).nonzero().min())
    assert int((tall[top] > 99).sum()) > 9 and int((narrow.amax(0) > 99).sum()) < 5
    columns = tall.amax(0).nonzero().squeeze(1)
    assert abs(int(columns.min()) + int(columns.max()) - 27) <= 1  # in the middle


def test_classes_are_scripts():
    law = Glyphs("sans")
    words = {name: law.class_names[int(k)] for name, k in zip(law.names, law.labels, strict=True)}
    assert words["U+0041 LATIN CAPITAL LETTER A"] == "latin" and words["U+0031 DIGIT ONE"] == "other"
    assert words["U+0416 CYRILLIC CAPITAL LETTER ZHE"] == "cyrillic"


def test_faces_differ_and_sizes_scale():
    sans, bold = Glyphs("sans"), Glyphs("sans_bold")
    assert float(bold.raw.float().mean()) > 1.2 * float(sans.raw.float().mean())
    assert Glyphs("sans", size=16).event_shape == (1, 16, 16)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(FlowportError, match="no face 'comic'"):
        Glyphs("comic")
    with pytest.raises(FlowportError, match=r"glyphs\.size is 4"):
        Glyphs(size=4)


def test_augmentation_is_the_modality_s():
    law = Glyphs("sans", size=16)
    x = law.items(0, 4, Randomness(0)).x
    assert x.shape == (4, 1, 16, 16) and bool(torch.isfinite(x).all())
