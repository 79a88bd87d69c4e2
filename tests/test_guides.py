"""Every Python block of the guide runs, also in the libraries that it is compared with."""

import re
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[1] / "docs" / "guides" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_guide_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer steps than the guide's, which it needs to learn anything."""
    code = re.sub(r"\b(2000|500)\b", "20", BLOCKS[number]).replace("strength=2.0)", "strength=2.0, steps=4)")
    assert code != BLOCKS[number], "no number of steps was found"
    for library in ("torchcfm", "flow_matching"):
        if f"from {library}" in code:
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names = {"x0": torch.randn(300, 2), "x1": torch.randn(300, 2) + 2}
    exec(code, names)
    if "y" in names:
        assert names["y"].shape == (300, 2) and bool(names["y"].isfinite().all())
