"""A study plays the sounds and turns the clouds that runs left, and asks no one for anything."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from flowport.errors import FlowportError
from flowport.evaluation.showcase import Showcase, read_showcase, shown_values, write_sounds
from flowport.evaluation.study import compared
from flowport.evaluation.study_media import SCRIPT
from flowport.evaluation.study_page import write
from flowport.metric.base import EvaluationResult
from flowport.modality import Cloud, LogMel, Plane
from flowport.types import Sample
from tests.evaluation.test_study import SHARED, run

N = 6


def outcome(x: torch.Tensor) -> EvaluationResult:
    states = torch.stack([x + k for k in range(20)])
    return EvaluationResult(Sample(x), states[-1], Sample(x), Sample(x), torch.linspace(0, 1, 20), states)


def test_clouds_and_points_of_the_plane_are_kept_and_read(tmp_path: Path) -> None:
    x = torch.randn(N, 3, 20, generator=torch.Generator().manual_seed(0))
    rows = {"source": x, "translation": x + 1}
    values = json.loads(json.dumps(shown_values(rows, outcome(x), Cloud())))
    show = read_showcase(values, tmp_path, {})
    assert set(show.clouds) == {"source", "translation"} and not show.plane and show.ways is None
    points, colours = show.clouds["translation"][1]
    torch.testing.assert_close(points, (x[1].T + 1).double(), atol=1e-4, rtol=0)
    assert torch.equal(colours, show.clouds["source"][1][1]), "a point has the colour of its height in the source"
    y = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
    show = read_showcase(shown_values({"source": y}, outcome(y), Plane()), tmp_path, {})
    assert show.ways is not None and show.ways.shape[1:] == (N, 2)
    torch.testing.assert_close(show.ways[-1], show.plane["translation"])
    torch.testing.assert_close(show.ways[0], show.plane["source"])


@pytest.mark.parametrize(
    "values",
    [
        {"clouds": 3},
        {"clouds": {"source": {"points": [[[0, 0]]], "colours": [[[0, 0]]]}}},
        {"clouds": {"source": {"points": [[[0, 0, 0]]], "colours": [[[0, 0, 0], [1, 1, 1]]]}}},
        {"plane": {"source": [["a", "b"]]}},
        {"plane": {"source": [[float("nan"), 1]]}},
        {"ways": [[0, 1]]},
    ],
)
def test_a_damaged_file_is_named(values: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(FlowportError, match=r"show\.json is damaged"):
        read_showcase(values, tmp_path / "show.json", {})


def page(folder: Path) -> Path:
    """A study of two settings with sounds and clouds, one of whose sounds is no sound."""
    modality = LogMel(mean=0.0, std=1.0)
    generator = torch.Generator().manual_seed(0)
    wave = (8000 * torch.randn(2, 4000, generator=generator)).short()
    write_sounds({"source": modality.encode(wave, None), "translation": modality.encode(wave, None)}, modality, folder)
    sounds = {name: sorted(folder.glob(f"{name}_*.wav")) for name in ("source", "translation")}
    assert len(sounds["source"]) == 2
    odd = folder / "odd.wav"
    odd.write_bytes(b"<script>alert(1)</script>")
    sounds["translation"][1:] = [odd]
    x = torch.randn(2, 30, 3, generator=generator).double()
    clouds = {name: [(item, item.abs().mul(90).clamp(0, 255)) for item in x] for name in ("source", "translation")}
    runs = [run(name, 0, SHARED + k) for k, name in enumerate("ab")]
    shown = [type(one)(**{**vars(one), "show": Showcase(sounds, clouds)}) for one in runs]
    return write(compared(shown), folder)


def test_sounds_and_clouds_stand_in_the_page(tmp_path: Path) -> None:
    text = page(tmp_path).read_text()
    assert text.count('<audio controls src="data:audio/wav;base64,') == 2 + 2 * 1
    assert "alert(1)" not in text and "PHNjcmlwdD" not in text, "what is no wave is not shown"
    assert text.count("<canvas ") == 3 * 2 and text.count(SCRIPT) == 1
    assert not re.search(r"(src|href)=[\"']?(https?:|//|file:)", text)
    assert "default-src 'none'" in text
    held = re.search(r'data-cloud="([^"]+)"', text)
    assert held is not None
    found = json.loads(held[1].replace("&quot;", '"'))
    assert len(found["p"]) == len(found["q"]) == 90 and max(map(abs, found["p"])) <= 1151


BROWSER = os.environ.get("FLOWPORT_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """<script>addEventListener('load',()=>setTimeout(()=>{const c=document.querySelector('canvas');
const drawn=c.getContext('2d').getImageData(0,0,c.width,c.height).data.some(v=>v);
const bad=[...document.images].filter(i=>!i.naturalWidth).length;
document.body.dataset.seen=`${document.images.length} images, ${bad} broken, drawn ${drawn}, `+
`asked ${performance.getEntriesByType('resource').filter(e=>!e.name.startsWith('data:')).length}`;},500));</script>"""


def browsed(place: Path, folder: Path) -> str:
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
    words += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", place.as_uri()]
    assert BROWSER is not None
    return subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="needs a headless browser (chromium, or FLOWPORT_BROWSER)")
def test_a_browser_shows_every_picture_and_asks_for_nothing(tmp_path: Path) -> None:
    """A copy whose policy admits the probe counts images that are broken and resources that are asked for."""
    whole = page(tmp_path)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole.read_text())
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</html>", f"{PROBE}</html>"))
    images = text.count("<img ")
    assert f"{images} images, 0 broken, drawn true, asked 0" in browsed(probed, tmp_path)
    faulty = f"<img src='http://flowport.invalid/x.png'>{PROBE}"
    probed.write_text(text.replace("</html>", f"{faulty}</html>"))
    assert f"{images + 1} images, 1 broken, drawn true, asked 1" in browsed(probed, tmp_path), "the probe sees faults"
