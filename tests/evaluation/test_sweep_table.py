"""The table of a sweep says what its runs say."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowport.errors import FlowportError
from flowport.evaluation import sweep_table
from flowport.run.run_folder import finished_runs


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


def test_files_and_headline(folder: Path) -> None:
    sheet = read(folder, ["w2", "train/seconds"])
    sweep_table.write(sheet, jobs(folder), folder)
    assert (folder / "table.md").read_text() == sheet.markdown()
    assert "| exact | 3 | 3.0 ± 1.5 | 1.00 ± 0.00 |" in sheet.markdown()
    assert (folder / "table.csv").read_text().splitlines()[0] == "coupling,runs,w2,train/seconds"
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
        name: [(x, cell.mean) for x, cell in line] for name, line in sweep_table.lines(sheet, "test/w2", "nfe").items()
    }
    assert found == {"euler": [(1, 4.0), (8, 1.0)], "heun": [(2, 3.0), (8, 0.5)]}
    sweep_table.write(sheet, jobs(tmp_path), tmp_path, "nfe")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_translations_of_the_settings_stand_below_each_other(folder: Path) -> None:
    shades = {0: 40, 1: 90, 3: 200}
    for k, shade in shades.items():
        Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(folder / str(k) / "translation.png")
    sweep_table.write(read(folder, []), jobs(folder), folder)
    page = np.asarray(Image.open(folder / "translations.png"))
    column = page[:, -15, 0].tolist()
    assert [v for k, v in enumerate(column) if k and v != column[k - 1] and v != 255] == [40, 200], "first seeds only"
    assert column.count(40) == column.count(200) == 20


@pytest.mark.parametrize("values", [[math.inf], [1.0, math.inf], [math.nan], [math.nan, 1.0], [0.0], [0.0, 0.0]])
def test_every_number_has_a_text(values: list[float]) -> None:
    text = str(sweep_table.MeanAndError.of(values))
    assert text.startswith(("inf", "nan", "0.00"))


@pytest.mark.parametrize("cell", ["=cmd", "+cmd", "-cmd", "@cmd", "0.5", "-0.50 ± 0.01", "+1e-3", "exact"])
def test_a_cell_that_begins_like_a_formula_is_text_and_a_number_stays_one(cell: str, tmp_path: Path) -> None:
    sheet = sweep_table.SweepTable(["coupling"], ["test/w2"], [((cell,), {})])
    sweep_table.write(sheet, [sweep_table.Job({"coupling": cell}, {}, tmp_path / "absent.png")], tmp_path)
    written = (tmp_path / "table.csv").read_text().splitlines()[1].split(",")[0]
    assert written == (f"'{cell}" if cell.endswith("cmd") else cell)


def test_runs_that_measured_nothing_are_refused_or_shown_by_what_was_asked_for(tmp_path: Path) -> None:
    folder = sweep(tmp_path, [([f"seed={seed}"], {"train/seconds": 1.0}) for seed in (0, 1)])
    with pytest.raises(FlowportError, match="name columns, for instance --metrics train/seconds"):
        read(folder, [])
    assert "train/seconds" in read(folder, ["train/seconds"]).markdown()
