"""The table of a sweep says what its runs say."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowport.errors import FlowportError
from flowport.evaluation import sweep_pictures, sweep_table
from flowport.evaluation.sweep_differences import differences, marked
from flowport.evaluation.sweep_pictures import _save as save
from flowport.evaluation.sweep_pictures import compare, draw, draw_curves, lines
from flowport.run.run_folder import finished_runs
from flowport.run.tabulating import TableOptions, write_tables
from tests.metric.outcomes import outcome_of
from tests.metric.test_states import MEMBERS, fed


def sweep(folder: Path, runs: list[tuple[list[str], dict[str, float]]]) -> Path:
    for k, (words, numbers) in enumerate(runs):
        (folder / str(k) / ".hydra").mkdir(parents=True)
        (folder / str(k) / ".hydra" / "overrides.yaml").write_text("".join(f"- {w}\n" for w in words))
        (folder / str(k) / "metrics.json").write_text(json.dumps(numbers))
    return folder


def jobs(folder: Path) -> list[sweep_table.Job]:
    return [sweep_table.Job(job.overrides(), job.read_metrics(), job.translation) for job in finished_runs(folder)]


def read(folder: Path, metrics: list[str]) -> sweep_table.SweepTable:
    return sweep_table.tabulated(jobs(folder), metrics)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for coupling, values in {"exact": (1.0, 2.0, 6.0), "independent": (5.0, 5.0, 5.0)}.items():
        for seed, value in enumerate(values):
            words = ["sweep=s", "experiment=e", f"coupling={coupling}", f"seed={seed}"]
            rows.append((words, {"test/w2": value, "test/w2_floor": 0.5, "test/w2_n": 10, "train/seconds": 1.0}))
    return sweep(tmp_path, rows)


def test_mean_and_standard_error_over_seeds(folder: Path) -> None:
    sheet = read(folder, [])
    assert sheet.settings == ["coupling"], "only what varies is a column, and never the seed"
    assert sheet.metrics == ["test/w2"]
    cells = {values: row["test/w2"] for values, row in sheet.rows}
    assert cells[("exact",)].mean == 3.0
    assert math.isclose(cells[("exact",)].error, math.sqrt(7.0 / 3))  # s² = ((−2)² + (−1)² + 3²)/2 = 7
    assert cells[("independent",)] == sweep_table.MeanAndError(5.0, 0.0, 3)
    assert [values for values, _ in sheet.rows][-1] == ("any: floor",), "the floor is one row where it does not vary"


def test_references_of_one_seed_count_once(tmp_path: Path) -> None:
    """Settings share the points of a seed: two seeds are two values, however many settings vary."""
    rows = [
        ([f"coupling={c}", f"path={p}", f"seed={s}"], {"test/w2": 1.0, "test/w2_floor": 0.2 + 0.2 * s})
        for c in ("exact", "independent")
        for p in ("linear", "trigonometric")
        for s in (0, 1)
    ]
    cells = dict(read(sweep(tmp_path, rows), []).rows)[("any", "floor")]["test/w2"]
    assert (cells.n, cells.mean) == (2, pytest.approx(0.3)) and cells.error == pytest.approx(0.1)


def test_files_and_headline(folder: Path) -> None:
    write_tables(folder, TableOptions(("w2", "train/seconds")))
    text = (folder / "table.md").read_text()
    assert "| exact | 3 | **3.0 ± 1.5** | **1.00 ± 0.00** |" in text and text.endswith("alone.\n")
    head = (folder / "table.csv").read_text().splitlines()[0]
    assert head == "coupling,runs," + ",".join(
        f"{name} {column}" for name in ("w2", "train/seconds") for column in ("mean", "standard error", "n")
    )
    assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowportError, match=r"no run of this sweep has a metric test/nonsense; they have test/w2"):
        read(folder, ["nonsense"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlowportError, match="holds no finished runs"):
        read(tmp_path / "empty", [])


def test_the_same_number_three_times_has_no_error():
    """0.1 + 0.1 + 0.1 is not 0.3: what rounding leaves is no spread."""
    assert str(sweep_table.MeanAndError.of([0.1, 0.1, 0.1])) == "0.100 ± 0.000"
    assert sweep_table.MeanAndError.of([0.1, 0.1, 0.1 + 1e-9]).error > 0


def test_lines_over_what_a_run_cost(tmp_path: Path) -> None:
    """A line a solver, at the true cost and not at the wish, in its order; the floor is no line."""
    costs = (("euler", 8, 8, 1.0), ("euler", 1, 1, 4.0), ("heun", 8, 8, 0.5), ("heun", 1, 2, 3.0))
    rows = [
        ([f"solver={solver}", f"nfe={wish}"], {"test/w2": value, "test/nfe": cost, "test/w2_floor": 0.1})
        for solver, wish, cost, value in costs
    ]
    sheet = read(sweep(tmp_path, rows), ["w2", "nfe"])
    found = {
        name: [(at.mean, cell.mean) for at, cell in line] for name, line in lines(sheet, "test/w2", "test/nfe").items()
    }
    assert found == {"euler": [(1, 4.0), (8, 1.0)], "heun": [(2, 3.0), (8, 0.5)]}
    write_tables(tmp_path, TableOptions(("w2",), ("nfe",)))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "nfe mean" in (tmp_path / "table.csv").read_text()
    with pytest.raises(FlowportError, match="--against nfe is the only metric"):
        draw_curves(sheet, ["test/nfe"], ["nfe"], tmp_path / "none.png")


def test_lines_over_seconds_join_the_settings_that_differ_in_a_number(tmp_path: Path) -> None:
    rows = [
        ([f"coupling={c}", f"trainer.max_steps={k}"], {"test/w2": 1 / k, "train/seconds": float(k)})
        for c in ("exact", "independent")
        for k in (4, 1, 2)
    ]
    sheet = read(sweep(tmp_path, rows), ["w2", "train/seconds"])
    found = lines(sheet, "test/w2", "train/seconds")
    assert {name: [at.mean for at, _ in line] for name, line in found.items()} == {
        "exact": [1.0, 2.0, 4.0],
        "independent": [1.0, 2.0, 4.0],
    }
    plain = read(sweep(tmp_path / "b", [([f"coupling={c}"], {"test/w2": 1.0, "train/seconds": 1.0}) for c in "ab"]), [])
    both = sweep_table.SweepTable(plain.settings, ["test/w2"], plain.rows)
    assert set(lines(both, "test/w2", "test/w2")) == {"a", "b"}, "without a number every setting is a point of its own"


PAIRED = {"exact": (1.0, 2.0, 6.0), "independent": (1.1, 2.3, 6.2), "partial": (9.0, 0.0, 0.1)}
"""Of these means 3, 3.2 and 3.03; the differences from exact are .1, .3, .2 and 8, −2, −5.9."""


def paired(folder: Path, name: str = "test/w2") -> list[sweep_table.Job]:
    words = [
        ([f"coupling={c}", f"seed={k}"], {name: value})
        for c, values in PAIRED.items()
        for k, value in enumerate(values)
    ]
    return jobs(sweep(folder, words))


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    """The error of .2 between seeds is .058, of which t with two degrees of freedom takes 4.30."""
    found = {gap.setting[0]: gap for gap in differences(paired(tmp_path), ["test/w2"])}
    gap = found["independent"]
    assert gap.baseline == ("exact",) and gap.value is not None
    assert gap.value.mean == pytest.approx(0.2) and gap.value.error == pytest.approx(0.1 / math.sqrt(3))
    assert gap.margin == pytest.approx(4.302653 * 0.1 / math.sqrt(3)) and gap.within_error
    assert found["partial"].within_error and found["partial"].value is not None
    assert found["partial"].value.mean == pytest.approx(0.1 / 3)
    first = differences(paired(tmp_path / "b", "test/class_preservation"), ["test/class_preservation"])
    assert first[0].baseline == ("independent",), "of this one more is better"
    last = differences(paired(tmp_path / "c", "test/clouds_nna"), ["test/clouds_nna"])
    assert last[0].baseline == ("exact",), "it has no best, so that the first setting is the baseline"
    with pytest.raises(FlowportError, match="--baseline worst is not one of best, first"):
        differences(paired(tmp_path / "d"), ["test/w2"], "worst")


def test_the_best_is_marked_with_those_within_its_error(tmp_path: Path) -> None:
    rows = [
        ([f"coupling={c}", f"seed={k}"], {"test/w2": base + gap + noise * k, "test/clouds_nna": base})
        for c, gap, noise in (("exact", 0.0, 0.0), ("near", 0.01, 0.1), ("far", 1.0, 0.1))
        for k, base in enumerate((1.0, 5.0, 9.0))
    ]
    found = jobs(sweep(tmp_path, rows))
    sheet = marked(sweep_table.tabulated(found, []), found)
    assert sheet.best == {"test/w2": {("exact",), ("near",)}}
    alone = [job for job in found if job.settings["seed"] == "0"]
    assert marked(sweep_table.tabulated(alone, []), alone).best == {"test/w2": {("exact",)}}, "one seed has no error"
    single = [job for job in found if job.settings["coupling"] == "far"]
    assert marked(sweep_table.tabulated(single, []), single).best == {}


def test_translations_of_the_settings_stand_below_each_other(folder: Path) -> None:
    shades = {0: 40, 1: 90, 3: 200}
    for k, shade in shades.items():
        Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(folder / str(k) / "translation.png")
    write_tables(folder, TableOptions())
    page = np.asarray(Image.open(folder / "translations.png"))
    column = page[:, -15, 0].tolist()
    assert [v for k, v in enumerate(column) if k and v != column[k - 1] and v != 255] == [40, 200], "first seeds only"
    assert column.count(40) == column.count(200) == 20


def test_the_same_items_and_the_real_target_stand_below_each_other(folder: Path) -> None:
    """Pictures of examples go before those of whole evaluations."""
    for k, shade in {0: 40, 3: 200}.items():
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / str(k) / "translation.png")
        (folder / str(k) / "examples").mkdir()
        for row, at in (("translation", shade), ("target", 120), ("source", 10)):
            Image.fromarray(np.full((20, 30, 3), at, np.uint8)).save(folder / str(k) / "examples" / f"{row}.png")
    compare(jobs(folder), folder / "translations.png")
    column = np.asarray(Image.open(folder / "translations.png"))[:, -15, 0].tolist()
    assert [v for k, v in enumerate(column) if k and v != column[k - 1] and v != 255] == [40, 200, 120]


def test_points_of_the_plane_have_shared_axes_beside_the_target_of_each(folder: Path, monkeypatch: Any) -> None:
    figures = list[Any]()
    for k in range(6):
        (folder / str(k) / "examples").mkdir()
        plane = {"source": [[0, 0]], "translation": [[k, k], [-k, k]], "target": [[9, 9]]}
        (folder / str(k) / "examples" / "show.json").write_text(json.dumps({"plane": plane}))
    (folder / "0" / "examples" / "show.json").write_text("[[")
    monkeypatch.setattr(sweep_pictures, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    one = jobs(folder)
    several = [replace(job, settings=job.settings | {"target.path": job.settings["coupling"]}) for job in one]
    for found, titles in (
        (one, ["coupling exact", "coupling independent", "real target"]),
        (several, ["coupling exact", "real target 1", "coupling independent", "real target 2"]),
    ):
        compare(found, folder / "translations.png")
        axes = [axis for axis in figures[-1].axes if axis.axison]
        assert [axis.get_title().partition(",")[0] for axis in axes] == titles
        assert len({(axis.get_xlim(), axis.get_ylim()) for axis in axes}) == 1
        spots = [axis.collections[0].get_offsets().tolist() for axis in axes]
        assert spots[0] == [[1, 1], [-1, 1]], "of the first run that can be read"
        assert [[9, 9]] in spots
    width, height = Image.open(folder / "translations.png").size
    assert width > 3 * height


def test_many_metrics_stand_in_rows_of_four_panels(folder: Path) -> None:
    cells = {f"test/m{k}": sweep_table.MeanAndError(1e-5 * k, 0.0, 1) for k in range(19)}
    draw(sweep_table.SweepTable(["coupling"], list(cells), [(("a",), cells), (("b",), cells)]), folder / "table.png")
    width, height = Image.open(folder / "table.png").size
    assert width < 2000 and height > 5 * 150
    draw(
        sweep_table.SweepTable(["coupling"], list(cells), [((str(k),), cells) for k in range(60)]), folder / "table.png"
    )
    width, height = Image.open(folder / "table.png").size
    assert height < 4500 and width > 2000, "many settings: more panels beside each other rather than a tower"


@pytest.mark.parametrize("values", [[math.inf], [1.0, math.inf], [math.nan], [math.nan, 1.0], [0.0], [0.0, 0.0]])
def test_every_number_has_a_text(values: list[float]) -> None:
    text = str(sweep_table.MeanAndError.of(values))
    assert text.startswith(("inf", "nan", "0.00"))


def test_runs_that_measured_nothing_are_refused_or_shown_by_what_was_asked_for(tmp_path: Path) -> None:
    folder = sweep(tmp_path, [([f"seed={seed}"], {"train/seconds": 1.0}) for seed in (0, 1)])
    with pytest.raises(FlowportError, match="name columns, for instance --metrics train/seconds"):
        read(folder, [])
    assert "train/seconds" in read(folder, ["train/seconds"]).markdown()


@pytest.mark.parametrize(
    ("sign", "names"),
    [
        (
            1,
            "w2 sliced_w2 energy mmd clouds_mmd fd_mnist fd_mnist_ratio kid_mnist npe straightness_relative",
        ),
        (
            1,
            "lsd mcd pitch_cents audible_cents_p90 torus_fit partner_distance partner_rank",
        ),
        (1, "few_chamfer item_rank nfe item_feature_distance"),
        (
            -1,
            "class_preservation class_accuracy target_share clouds_coverage pitch_within_50 partner_class partner_mrr",
        ),
        (-1, "partner_top1"),
        (
            0,
            "domain_w2 domain_gw_relative source_dimension class_diversity clouds_nna path_energy",
        ),
        (0, "my_own transport_cost item_cycle_error"),
    ],
)
def test_more_is_better_of_shares_and_less_of_distances(sign: int, names: str) -> None:
    assert {name: sweep_table.direction(f"test/{name}") for name in names.split()} == dict.fromkeys(names.split(), sign)


def test_every_number_of_a_table_of_a_metric_has_a_direction() -> None:
    values = {f"test/{name}": 1.0 for member in MEMBERS for name in fed(member, outcome_of()).compute()}
    shown = sweep_table.tabulated([sweep_table.Job({"seed": "0"}, values, Path())], []).metrics
    signs = {name: sweep_table.direction(name) for name in shown}
    none = {
        "domain_gw",
        "domain_gw_relative",
        "domain_w2",
        "domain_w2_relative",
        "source_dimension",
        "target_dimension",
    }
    none |= {"class_diversity", "path_energy", "transport_cost"}
    assert {name for name, sign in signs.items() if not sign} == {f"test/{name}" for name in none}


def test_pairs_of_domains_are_compared_within_each_pair_and_have_their_own_references(tmp_path: Path) -> None:
    rows = []
    for k, (source, target) in enumerate((("a", "b"), ("b", "a"), ("a", "c"))):
        for coupling, gain in (("exact", 0.5), ("independent", 0.0)):
            if (target, coupling) != ("c", "independent"):
                words = [f"pair.source={source}", f"pair.target={target}", f"coupling={coupling}", "seed=0"]
                numbers = {"test/partner_top1": 0.1 * k + gain, "test/partner_rank": 0.5 - 0.1 * k - gain}
                rows.append((words, {**numbers, "test/partner_rank_untranslated": 0.6 + 0.1 * k}))
    held = jobs(sweep(tmp_path, rows))
    sheet = marked(sweep_table.tabulated(held, []), held)
    good = {("a", "b", "exact"), ("b", "a", "exact")}
    assert sheet.best == {"test/partner_top1": good, "test/partner_rank": good}, "one setting alone is not the best"
    idle = {values: cells["test/partner_rank"].mean for values, cells in sheet.rows if values[-1] == "untranslated"}
    assert idle == {
        ("a", "b", "untranslated"): 0.6,
        ("b", "a", "untranslated"): 0.7,
        ("a", "c", "untranslated"): 0.8,
    }
    assert {gap.baseline for gap in differences(held, ["test/partner_rank"])} == {*good, ("a", "c", "exact")}


def test_facts_errors_and_signed_gaps_have_no_best() -> None:
    for name in ("pilot/kl", "pilot/effective", "certificate/kl_to_tilt_se", "watch/gain_se", "boosting/gap"):
        assert sweep_table.direction(name) == 0, name
    assert sweep_table.direction("certificate/kl_to_tilt") == 1 and sweep_table.direction("watch/gain") == -1
