"""Sheets: the picture of a modality with a number under every item."""

import pytest
import torch

from flowport.modality import Cloud, Image, LogMel, Modality, PixelCloud, Plane
from flowport.modality.image import FloatImage

G = torch.Generator().manual_seed(0)


class Plain(Modality):
    """A modality of a user's, which knows nothing of sheets."""

    def encode(self, raw, generator):
        return raw

    def decode(self, x):
        return x

    def render(self, rows, path, unrelated=()):
        self.labels = list(rows)
        return Plane().render(rows, path, unrelated)


POINTS = {
    Image: torch.rand(5, 1, 8, 8, generator=G),
    FloatImage: torch.rand(5, 3, 8, 8, generator=G),
    Cloud: torch.randn(5, 3, 20, generator=G),
    PixelCloud: torch.randn(5, 2, 20, generator=G),
    Plane: torch.randn(5, 2, generator=G),
    LogMel: LogMel().encode((1000 * torch.randn(5, 16000, generator=G)).to(torch.int16), None),
    Plain: torch.randn(5, 2, generator=G),
}


@pytest.mark.parametrize("kind", POINTS, ids=lambda kind: kind.__name__)
def test_numbers_stand_in_the_rows_that_have_them(kind: type[Modality], tmp_path) -> None:
    modality, x = kind(), POINTS[kind]
    rows, low, high = {"source": x, "tuned": x}, torch.arange(5.0), torch.arange(5.0) - 7.25
    first, again, other = (
        modality.sheet(rows, {"tuned": n}, str(tmp_path / f"{k}.png")) for k, n in enumerate((low, low, high))
    )
    assert (tmp_path / "2.png").is_file() and torch.equal(first, again)
    changed = (first != other).any(0)
    assert changed.any()
    across = kind in (Plane, Plain)  # whose rows are beside each other
    span = changed.shape[1] // 2 if across else changed.shape[0] // 2
    assert not (changed[:, :span] if across else changed[:span]).any(), "the row without numbers"
    bare = modality.sheet(rows, {}, str(tmp_path / "bare.png"))
    assert torch.equal(bare, modality.render(rows, str(tmp_path / "render.png")))


def test_a_number_is_under_its_own_image(tmp_path) -> None:
    """Of five images the number of the fourth changes."""
    x, numbers = POINTS[Image], torch.zeros(5)
    before = Image().sheet({"": x}, {"": numbers}, str(tmp_path / "a.png"))
    numbers[3] = 8
    after = Image().sheet({"": x}, {"": numbers}, str(tmp_path / "b.png"))
    rows, columns = (before != after).any(0).nonzero().T
    middle = 20 + 3 * 60 + 28
    assert abs(float(columns.float().mean()) - middle) < 4 and int(rows.min()) >= 10 + 56


def test_a_modality_without_a_place_for_numbers_has_the_mean_in_its_label(tmp_path) -> None:
    modality = Plain()
    modality.sheet(
        {"source": POINTS[Plain], "tuned": POINTS[Plain]}, {"tuned": torch.tensor([1.0, 2.0])}, str(tmp_path / "a.png")
    )
    assert modality.labels == ["source", "tuned (1.5)"]
