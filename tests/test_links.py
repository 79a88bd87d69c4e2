"""Every relative link of README, docs and CONTRIBUTING leads to a file, and every class in docs exists."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), f"{page.name} -> {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_pages_name_exists(page: Path) -> None:
    if page.name == "results.md":  # holds the words of the runs it reports
        return
    for name in set(re.findall(r"`(flowport(?:\.\w+)+)`", page.read_text())):
        parts = name.split(".")
        for k in range(len(parts), 0, -1):
            try:
                found = import_module(".".join(parts[:k]))
            except ModuleNotFoundError:
                continue
            for part in parts[k:]:
                assert part in dir(found), f"{page.name} names {name}, which does not exist"
                found = getattr(found, part)
            break
