"""Pictures of clouds: whole shapes, colours that say where a point comes from, and depth."""

import math

import pytest
import torch

from flowport.modality import Cloud, PixelCloud
from flowport.modality.scatter import CAPTION, GROUND, LABEL, PANEL, caption, draw

FLAT = torch.eye(3, 2)


def panels(picture: torch.Tensor) -> torch.Tensor:
    """Panels of a picture, (rows, columns, PANEL, PANEL, 3)."""
    rows = picture.permute(1, 2, 0)[: picture.shape[1] // PANEL * PANEL, LABEL:].float()
    return rows.unfold(0, PANEL, PANEL).unfold(1, PANEL, PANEL).permute(0, 1, 3, 4, 2)


def ink(panel: torch.Tensor) -> torch.Tensor:
    """Where a panel is not empty, (PANEL, PANEL) bool; its outermost pixel is the white gap between panels."""
    return ((panel - 255 * GROUND).abs().amax(-1) > 12) & (panel.amin(-1) < 250)


@pytest.mark.parametrize("far", [4.0, 400.0])
def test_every_shape_is_whole_within_its_panel(far, tmp_path):
    """One point in thousands lies far out: it is drawn, away from the edge, and all panels share its scale."""
    x = torch.randn(4, 3, 500, generator=torch.Generator().manual_seed(0))
    x[2, :, 7] = torch.tensor([0.0, 0.0, far * 2 / math.sqrt(3)])  # at height far in the picture
    seen = panels(Cloud().render({"row": x}, str(tmp_path / "p.png")))[0]
    marks = [ink(panel) for panel in seen]
    for mark in marks:
        assert mark.any() and not mark[:2].any() and not mark[-2:].any() and not mark[:, :2].any()
    assert marks[2].nonzero()[:, 0].min() < 0.06 * PANEL, "the farthest point is drawn at the edge of its panel"
    alone = panels(Cloud().render({"row": x[:1]}, str(tmp_path / "p.png")))[0, 0]
    shrunk = ink(alone).any(0).sum() / marks[0].any(0).sum()
    assert shrunk > 1.1, "a panel beside a larger shape has that shape's scale"


def yellow(panel: torch.Tensor) -> float:
    """Height of the yellow points of a panel above its middle, pixels."""
    where = ink(panel) & (panel[..., 0] > 180) & (panel[..., 2] < 120)
    return PANEL / 2 - float(where.nonzero()[:, 0].float().mean())


@pytest.mark.parametrize(("modality", "d"), [(PixelCloud(40), 2), (Cloud(), 3)])
def test_rows_of_other_points_have_the_colours_of_their_own_height(modality, d, tmp_path):
    start = torch.randn(2, d, 40, generator=torch.Generator().manual_seed(0))
    start[:, -1] = torch.linspace(-2, 2, 40)
    turned = start * torch.tensor([1.0] * (d - 1) + [-1.0])[:, None]
    rows = {"source": start, "translation": turned, "real target": turned}
    seen = panels(modality.render(rows, str(tmp_path / "p.png"), unrelated=("real target",)))
    for column in range(2):
        source, translation, real = (yellow(seen[row, column]) for row in range(3))
        assert source > 10 and real > 10 and translation < -10


def test_the_nearer_point_is_larger_and_clearer(tmp_path):
    view = torch.eye(3)
    x = torch.tensor([[[-1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]])  # the right one is nearer
    panel = panels(draw({"row": x}, str(tmp_path / "p.png"), view))[0, 0]
    left, right = ink(panel).split(PANEL // 2, 1)
    assert right.sum() > 2 * left.sum() > 0
    flat = panels(draw({"row": x[:, :2]}, str(tmp_path / "p.png"), FLAT))[0, 0]
    left, right = ink(flat).split(PANEL // 2, 1)
    assert abs(int(right.sum()) - int(left.sum())) < 0.2 * right.sum(), "in the plane no point is nearer"


def test_the_caption_says_what_the_colours_are(tmp_path):
    assert caption(["source", "translation"], []) == "low to high: height of a point in the row source"
    own = ["real target", "retrieved"]
    assert caption(["source", "t = 0.50", *own], own).endswith("in real target, retrieved: its own height")
    assert caption(["source", *own], own) == "low to high: height of a point", "nothing corresponds"
    x = torch.randn(2, 2, 9)
    two = draw({"a": x, "b": x}, str(tmp_path / "p.png"), FLAT)
    assert two.shape == (3, 2 * PANEL + CAPTION, LABEL + 2 * PANEL)
    assert two[:, -CAPTION:, LABEL:].float().std() > 5
    assert draw({"": x}, str(tmp_path / "p.png"), FLAT).shape[1] == PANEL
    lost = torch.full((1, 3, 4), math.nan)
    assert not ink(panels(Cloud().render({"row": lost}, str(tmp_path / "p.png")))[0, 0])[2:-2, 2:-2].any()
