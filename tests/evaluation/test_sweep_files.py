"""runs.csv, table.csv and pivot.csv hold numbers that pandas reads as such, and text that no spreadsheet runs."""

import math
from pathlib import Path

import pandas
import pytest

from flowport.errors import FlowportError
from flowport.evaluation.sweep_files import Pivot, failures, runs_frame, table_frame, write_frame
from flowport.evaluation.sweep_pictures import draw_pivot
from flowport.evaluation.sweep_table import Job, tabulated

NOWHERE = Path("absent.png")


def job(name: str, settings: dict[str, str], status: str = "finished", **numbers: float) -> Job:
    full = {f"test/{key}": value for key, value in numbers.items()}
    return Job(settings, full, NOWHERE, name, status, "" if status == "finished" else "why not")


def jobs() -> list[Job]:
    return [
        job("0", {"coupling": "exact", "optimizer.lr": "1e-3", "seed": "0"}, w2=1.5, nfe=math.inf),
        job("1", {"coupling": "exact", "optimizer.lr": "0.01", "seed": "1"}, w2=2.5),
        job("2", {"coupling": "-own", "optimizer.lr": "0.01", "seed": "1"}, "failed"),
    ]


def test_runs_are_tidy_and_numbers_are_numbers(tmp_path: Path) -> None:
    write_frame(runs_frame(jobs()), tmp_path / "runs.csv")
    found = pandas.read_csv(tmp_path / "runs.csv")
    assert list(found.columns) == [
        *("job", "status", "error", "coupling", "optimizer.lr", "seed", "test/w2", "test/nfe"),
    ]
    assert found["optimizer.lr"].tolist() == [0.001, 0.01, 0.01] and found["seed"].dtype.kind == "i"
    assert found["status"].tolist() == ["finished", "finished", "failed"] and found["error"].tolist()[2] == "why not"
    assert found["test/w2"].tolist()[:2] == [1.5, 2.5] and math.isnan(found["test/w2"][2])
    assert found["test/nfe"][0] == math.inf
    assert found["coupling"][2] == "'-own"


@pytest.mark.parametrize("cell", ["=cmd", "+cmd", "-cmd", "@cmd", "0.5", "-0.50 ± 0.01", "+1e-3", "exact"])
def test_a_cell_that_begins_like_a_formula_is_text_and_a_number_stays_one(cell: str, tmp_path: Path) -> None:
    sheet = tabulated([job("0", {"coupling": cell}, w2=1.0)], [])
    write_frame(table_frame(sheet), tmp_path / "table.csv")
    written = (tmp_path / "table.csv").read_text().splitlines()[1].split(",")[0]
    assert written == (f"'{cell}" if cell.endswith("cmd") else cell)


def test_table_has_mean_error_and_n_in_columns(tmp_path: Path) -> None:
    runs = [
        job(str(k), {"coupling": c, "seed": str(k)}, w2=v) for k, (c, v) in enumerate([("a", 1), ("a", 3), ("b", 7)])
    ]
    write_frame(table_frame(tabulated(runs, [])), tmp_path / "table.csv")
    found = pandas.read_csv(tmp_path / "table.csv").set_index("coupling")
    assert found.loc["a"].to_dict() == {"runs": 2, "w2 mean": 2.0, "w2 standard error": 1.0, "w2 n": 2}
    assert found.loc["b", "w2 mean"] == 7.0 and math.isnan(found.loc["b", "w2 standard error"])


def test_failed_jobs_are_listed_and_their_text_is_no_markup() -> None:
    lost = Job({"coupling": "<b>"}, {}, NOWHERE, "7", "refused", "no\x1b `classes`")
    text = failures([*jobs(), lost])
    assert text.startswith("2 of 4 jobs have no numbers:")
    assert "* job 2, failed (coupling=-own optimizer.lr=0.01 seed=1): why not" in text
    assert "* job 7, refused (coupling=&lt;b>): no� 'classes'" in text
    assert failures(jobs()[:2]) == ""


def test_pivot_is_over_any_two_overrides(tmp_path: Path) -> None:
    values = {("exact", "10"): (1.0, 3.0), ("exact", "2"): (5.0,), ("independent", "10"): (7.0, 7.0)}
    runs = [
        job("x", {"coupling": c, "trainer.max_steps": steps, "path": "linear", "seed": str(k)}, w2=v)
        for (c, steps), seeds in values.items()
        for k, v in enumerate(seeds)
    ]
    pivot = Pivot(runs, "coupling", "max_steps", ["test/w2"])
    assert (pivot.row_values, pivot.column_values) == (["exact", "independent"], ["2", "10"]), "numbers in their order"
    cell = pivot.cells["test/w2", "exact", "10"]
    assert (cell.mean, cell.error, cell.n) == (2.0, 1.0, 2)
    assert "| exact | 5.00 | 2.0 ± 1.0 |" in pivot.markdown() and "over seeds" in pivot.markdown()
    assert "| independent |  | 7.00 ± 0.00 |" in pivot.markdown()
    write_frame(pivot.frame(), tmp_path / "pivot.csv")
    found = pandas.read_csv(tmp_path / "pivot.csv")
    assert found["trainer.max_steps=10 mean"].tolist() == [2.0, 7.0]
    assert found["trainer.max_steps=2 n"].tolist() == [1, 0]
    draw_pivot(pivot, tmp_path / "pivot.png")
    assert (tmp_path / "pivot.png").read_bytes().startswith(b"\x89PNG")
    seeds = Pivot(runs, "seed", "coupling", ["test/w2"])
    assert seeds.row_values == ["0", "1"] and seeds.over == ["trainer.max_steps"]
    with pytest.raises(FlowportError, match="no run of this sweep has an override nonsense; they have coupling,"):
        Pivot(runs, "coupling", "nonsense", ["test/w2"])
    with pytest.raises(FlowportError, match="names one override twice"):
        Pivot(runs, "max_steps", "trainer.max_steps", ["test/w2"])
    both = [job("0", {"source.path": "a", "target.path": "b"}, w2=1.0)]
    with pytest.raises(FlowportError, match=r"--pivot path may be source\.path or target\.path"):
        Pivot(both, "path", "source.path", ["test/w2"])
