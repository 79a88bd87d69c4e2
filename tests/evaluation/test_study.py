"""A study names a winner only where the paired difference leaves out 0 in every seed."""

import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flowport.errors import FlowportError
from flowport.evaluation.items import ItemTable
from flowport.evaluation.study import Study, StudyRun, compared
from flowport.evaluation.study_block import Block
from flowport.evaluation.study_page import STYLE, write


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHARED = 5 + normal(80, 0)
"""What makes an item hard for every setting."""


def run(coupling: str, seed: int, values: Tensor, names: list[str] | None = None, **columns: Tensor) -> StudyRun:
    names = names or [f"{k:02}.png" for k in range(len(values))]
    table = ItemTable(
        names, numbers={"distance": values, "distance_untranslated": SHARED[: len(values)] + 3, **columns}
    )
    numbers = {"test/w2": 1.0 + seed, "test/w2_floor": 0.5, "test/item_rank_of": 30.0, "test/item_rank_chance": 15.5}
    return StudyRun(f"job {coupling} {seed}", {"coupling": coupling, "seed": str(seed)}, table, numbers)


def study(*gaps: tuple[str, float, float]) -> Study:
    """Settings whose distance is that of every item, a gap, and noise that differs between items and seeds."""
    runs = [
        run(name, seed, SHARED + gap + noise * normal(80, 7 * k + seed + 1))
        for k, (name, gap, noise) in enumerate(gaps)
        for seed in (0, 1)
    ]
    return compared(runs)


def test_a_small_difference_between_settings_is_seen_because_items_are_paired() -> None:
    """The interval of each mean is ±0.2, their difference is 0.1, and the error of the pairs 0.01."""
    (found,) = study(("exact", 0.0, 0.1), ("independent", 0.1, 0.1)).comparisons
    gap = found.from_best["independent"]
    assert found.best == "exact"
    assert found.values[found.best].se == pytest.approx(float(SHARED.std()) / 80**0.5, rel=0.15)
    assert gap.mean == pytest.approx(0.1, abs=0.03) and gap.se == pytest.approx(0.1 / 80**0.5, rel=0.3)
    assert "is best" in found.sentence() and "more than the error" in found.sentence()
    assert found.agreeing["independent"] == (2, 2)


@pytest.fixture(autouse=True)
def short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are called by their values here."""
    from flowport.evaluation import study as module

    grouped = module._grouped
    monkeypatch.setattr(module, "_grouped", lambda runs: {k.rpartition("=")[2]: v for k, v in grouped(runs).items()})


def test_settings_of_one_law_have_no_winner() -> None:
    (found,) = study(("a", 0.0, 0.5), ("b", 0.0, 0.5), ("c", 0.0, 0.5)).comparisons
    assert "no setting is best by more than the error" in found.sentence()
    for gap in found.from_best.values():
        assert f"[{gap.low:.3g}, {gap.high:.3g}]" in found.sentence(), "no claim without its interval"


def test_a_seed_that_disagrees_forbids_the_claim() -> None:
    first = [run("a", 0, SHARED - 1), run("a", 1, SHARED + 0.2)]
    (found,) = compared([*first, run("b", 0, SHARED), run("b", 1, SHARED)]).comparisons
    assert found.best == "a" and found.from_best["b"].differs and found.agreeing["b"] == (1, 2)
    assert "best in 1 of 2 seeds" in found.sentence() and "is best," not in found.sentence()


def test_a_winner_against_one_setting_alone_says_so() -> None:
    (found,) = study(("a", 0.0, 0.3), ("b", 0.0, 0.3), ("c", 4.0, 0.3)).comparisons
    assert "c (+4" in found.sentence() or "c (+3.9" in found.sentence()
    assert "but not from" in found.sentence()


def test_higher_is_better_for_kept_classes_and_the_untranslated_are_beside() -> None:
    kept = (normal(80, 5) > -1).double()
    runs = [
        run("a", 0, SHARED, class_kept=kept, class_kept_untranslated=kept),
        run("b", 0, SHARED, class_kept=kept * 0, class_kept_untranslated=kept),
    ]
    first = compared(runs).comparisons[0]
    assert (first.column, first.best) == ("class_kept", "a")
    assert first.from_idle["a"].mean == first.from_idle["a"].se == 0 and first.from_idle["b"].high < 0
    assert "a does not differ from these by more than the error (+0 [0, 0])" in first.beside_idle()
    assert "a differs from these by more than the error (-3 [-3, -3])" in compared(runs).comparisons[1].beside_idle()


def test_shared_items_alone_are_compared_and_pieces_are_one_file() -> None:
    names = ["a.wav", "a.wav#1", "b.wav", "c.wav"]
    one, other = run("a", 0, SHARED[:4], names), run("b", 0, SHARED[:3] + 1, [*names[:2], "c.wav"])
    found = compared([one, other])
    assert found.items == 3 and "3 of 4 items occur in every run" in found.notes[0]
    assert found.comparisons[0].values["a"].groups == 2
    gap = found.comparisons[0].from_best["b"]
    want = (SHARED[0] + 1 - SHARED[0] + SHARED[1] + 1 - SHARED[1] + SHARED[2] + 1 - SHARED[3]) / 3
    assert gap.mean == pytest.approx(float(want))
    with pytest.raises(FlowportError, match="no held-out item in common"):
        compared([one, run("b", 0, SHARED[:1], ["z.wav"])])


def test_ranks_among_other_targets_are_not_compared() -> None:
    one, other = (run(name, 0, SHARED, rank=SHARED) for name in "ab")
    other.numbers["test/item_rank_of"] = 20.0
    found = compared([one, other])
    assert [c.column for c in found.comparisons] == ["distance"]
    assert "among different numbers of target items" in found.notes[0]


def test_one_file_says_that_nothing_can_be_said() -> None:
    names = ["a.wav", "a.wav#1"]
    (found,) = compared([run("a", 0, SHARED[:2], names), run("b", 0, SHARED[:2] + 1, names)]).comparisons
    assert "nothing can be said" in found.sentence() and math.isnan(found.values["a"].se)


class Tags(HTMLParser):
    """The links and the nesting of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "onerror")]
        assert tag != "script"
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_its_pictures_and_takes_no_name_for_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>[x](http://evil)|`rm`\x1b"
    strip = tmp_path / "strip.png"
    Image.fromarray(np.full((8, 40, 3), 90, np.uint8)).save(strip)
    names = [evil, *(f"{k}.png" for k in range(79))]
    runs = [run(name, 0, SHARED + k, names) for k, name in enumerate((evil, "b"))]
    for one in runs:
        one.table.text.update({"class": ["x", evil] * 40, "class_after": ["x", "y"] * 40})
        one.pictures.update(source=strip, translation=strip)
    page = write(compared(runs, [evil]), tmp_path)
    text, plain = page.read_text(), (tmp_path / "study.md").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and len(tags.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert (
        "<script>" not in text + plain and "\x1b" not in text + plain and "](http" not in plain and "`rm" not in plain
    )
    assert "95 % interval" in plain and "Left out: " in plain and "floor" in plain
    for picture in ("bars", "items", "confusion"):
        assert (tmp_path / f"study_{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_show_other_items_are_not_beside_each_other(tmp_path: Path) -> None:
    strip = tmp_path / "strip.png"
    Image.fromarray(np.full((8, 40, 3), 90, np.uint8)).save(strip)
    one, other = run("a", 0, SHARED), run("b", 0, SHARED[:70], [f"{k:02}.png" for k in range(10, 80)])
    for each in (one, other):
        each.pictures.update(source=strip, translation=strip, partner=tmp_path / "absent.png")
    found = compared([one, other])
    write(found, tmp_path)
    assert any("job b 0 shows other items" in note for note in found.notes)


GREEN = (0x2F, 0x7D, 0x4F)
"""The colour of the best bar."""
MOVES = {"transport_cost": SHARED, "cycle_error": SHARED / 100}
"""How far items are moved, and the error of the solver."""


def moved(name: str, w2: float, gap: float = 0.0, seed: int = 0, content: bool = False) -> StudyRun:
    """A run whose w2 is given, of 2.79 before and a floor of 0.28, and which moves items by a gap less or more."""
    one = run(name, seed, SHARED + gap, None, **{column: values + gap for column, values in MOVES.items()})
    one.numbers.update({"test/w2": w2, "test/w2_floor": 0.28, "test/w2_untranslated": 2.79})
    if not content:
        for column in ("distance", "distance_untranslated"):
            del one.table.numbers[column]
    return one


def has_green(picture: Path) -> bool:
    return bool((np.asarray(Image.open(picture).convert("RGB")) == GREEN).all(2).sum() > 50)


def test_moving_least_and_the_error_of_the_solver_are_never_best(tmp_path: Path) -> None:
    write(compared([moved("a", 0.3), moved("b", 0.3, gap=2.0)]), tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert "best" not in page.replace("Which setting preserves content best?", ""), "neither column has a best"
    assert "transport cost: a has the least mean, " in page and "it differs from b (+2 [2, 2])" in page
    assert "minus a" in page and not has_green(tmp_path / "study_bars.png")
    write(compared([moved("a", 0.3, content=True), moved("b", 0.3, gap=2.0, content=True)]), tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert "distance to the true partner: a is best" in page and has_green(tmp_path / "study_bars.png")


def test_a_setting_that_has_not_learnt_its_target_is_named_first_and_is_not_green(tmp_path: Path) -> None:
    runs = [moved("a", 2.4, seed=0, content=True), moved("a", 2.58, seed=1, content=True)]
    runs += [moved("b", 0.3, 2.0, seed=seed, content=True) for seed in (0, 1)]
    write(compared(runs), tmp_path)
    page = (tmp_path / "study.md").read_text()
    told = "1 of 2 settings has not learnt its target: a (w2 2.49; untranslated items 2.79, real ones 0.28)"
    assert told in page and page.index(told) < page.index("is best")
    assert "a has not learnt its target." in page[page.index("is best") :], "beside the claim"
    assert not has_green(tmp_path / "study_bars.png")
    learnt = [moved(name, 0.3, gap, content=True) for name, gap in (("a", 0.0), ("b", 2.0))]
    write(compared(learnt), tmp_path)
    assert "not learnt" not in (tmp_path / "study.md").read_text()


def test_one_seed_says_that_the_spread_over_trainings_is_unknown() -> None:
    runs = [run(name, seed, SHARED + gap) for name, gap in (("a", 0), ("b", 1)) for seed in (0, 1)]
    (found,) = compared(runs).comparisons
    assert "is best" in found.sentence() and "unknown" not in found.sentence()
    (found,) = compared(runs[::2]).comparisons
    assert found.sentence().endswith("Of one seed: the spread over trainings is unknown.")
    (found,) = compared([runs[0], runs[3]]).comparisons
    assert found.sentence().endswith("Without a common seed: the spread over trainings is unknown.")


def test_markdown_is_bold_where_the_table_is_and_text_is_on_the_left() -> None:
    rows = (("setting", "mean", "state"), ("a*b", "**0.35 ± 0.20**", "the partner's"), ("b", "-1.5 [-2, -1]", ""))
    block = Block("table", "it's", rows=rows)
    assert block.markdown().splitlines() == [
        "| setting | mean | state |",
        "| --- | ---: | --- |",
        "| a&#42;b | **0.35 ± 0.20** | the partner's |",
        "| b | -1.5 [-2, -1] |  |",
    ]
    page = block.html()
    assert '<td class="number"><b>0.35 ± 0.20</b></td>' in page and '<th class="number">mean</th>' in page
    assert "<td>the partner" in page and "<th>state</th>" in page
    assert Block("table", rows=(("x", "y"), ("1", "**<b>**"))).markdown().endswith("| 1 | **&lt;b&gt;** |")
    assert ".number{text-align:right}" in STYLE and "td+td" not in STYLE


def test_the_page_has_the_words_that_a_user_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes by their config's name; where all runs were given a word, of which a class may have several, that one."""
    monkeypatch.undo()  # settings have their full names
    chosen = {"source": "EightGaussians", "target": "Moons", "space": "DataSpace", "pairing": "UnpairedPairing"}
    chosen |= {"coupling": "ExactCoupling", "path": "LinearPath", "optimizer": "AdamW"}
    runs = [replace(run(name, 0, SHARED + k), choices=chosen) for k, name in enumerate(("exact", "exact_hog"))]
    for one in runs:
        one.settings["path"] = "my_path"
    write(compared(runs), tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert page.startswith("# How does the translation from eight_gaussians to moons depend on coupling?")
    told = "source eight_gaussians, target moons, space data, pairing unpaired, path my_path, optimizer adamw."
    assert f"All runs share: {told}" in page
