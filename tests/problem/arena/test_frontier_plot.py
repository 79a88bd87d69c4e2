"""The table and the picture of a sweep say what its duels found."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from flowport.errors import FlowportError
from flowport.evaluation.sweep_table import MeanAndError
from flowport.problem import NoiseProblem
from flowport.problem.arena.frontier_plot import (
    ArenaRun,
    above_least,
    confidence,
    draw,
    effective_share,
    exact_field_error,
    full_table,
    names,
    position,
    results,
)
from flowport.run.run_folder import finished_runs
from tests.problem.test_law import problem

PROBLEM = NoiseProblem([1.0], [[0.5]], [1.0, 0.6], 0.3, [0.8, 0.4])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for method, gaps in {"good": (0.01, 0.02, 0.03), "bad": (0.5,)}.items():
        for seed, gap in enumerate(gaps):
            job = tmp_path / f"{method}{seed}"
            (job / ".hydra").mkdir(parents=True)
            words = ["problem=plain", f"method={method}", "strength=0.7", f"seed={seed}"]
            (job / ".hydra" / "overrides.yaml").write_text("".join(f"- {w}\n" for w in words))
            found = {
                "kl": 0.3 - gap,
                "reward": 1.0 - gap,
                "base_reward": 0.5,
                "frontier_reward": 1.0,
                "exact_kl": 0.3,
                "kl_to_tilt": gap,
                "velocity_error": gap,
                "weight_error": gap,
                "mean_error": gap,
                "w2": 0.4,
                "w2_floor": 0.2,
                "calls": 100.0,
                "slope": 0.97,
                "signal": 2.0,
            }
            reported = {f"arena/{name}": value for name, value in found.items()} | {"train/seconds": 3.0}
            (job / "metrics.json").write_text(json.dumps(reported))
    return tmp_path


def jobs(folder: Path) -> list[tuple[dict[str, str], dict[str, float]]]:
    return [(job.overrides(), job.read_metrics()) for job in finished_runs(folder)]


def test_seeds_are_joined_and_the_nearest_method_comes_first(folder: Path) -> None:
    entries = results(jobs(folder))
    assert [(e.method, e["to_tilt"].n) for e in entries] == [("bad", 1), ("good", 3)]
    assert entries[1]["gain"].mean == pytest.approx(0.48)
    assert entries[1]["to_tilt"].error == pytest.approx(0.01 / 3**0.5)
    assert names(entries) == (["plain"], ["good", "bad"])


def test_the_law_of_results_is_shown_where_it_is_known() -> None:
    paths = {"kl": 0.5, "reward": 1.0, "frontier_reward": 1.3, "kl_to_tilt": 0.2, "base_reward": 0.4}
    law = {"law_kl": 0.3, "law_reward": 1.1, "law_frontier_reward": 1.2, "law_kl_to_tilt": 0.1}
    reported = [{f"arena/{name}": value for name, value in some.items()} for some in (paths, paths | law)]
    assert position(reported[0]) == pytest.approx({"place": 0.5, "gain": 0.6, "to_tilt": 0.2, "below": 0.3})
    assert position(reported[1]) == pytest.approx({"place": 0.3, "gain": 0.7, "to_tilt": 0.1, "below": 0.1})


def test_three_seeds_know_little_of_their_spread() -> None:
    assert confidence(MeanAndError(1.0, 0.5, 3)) == pytest.approx(0.5 * 4.302653, rel=1e-6)
    assert confidence(MeanAndError(1.0, 0.5, 1001)) == pytest.approx(0.5 * 1.962339, rel=1e-6)
    assert confidence(MeanAndError(1.0, 0.0, 1)) == 0


def test_the_files(folder: Path) -> None:
    short = draw(results(jobs(folder)), {"plain": PROBLEM}, folder)
    assert "| good | 0.0200 ± 0.0058 |" in short and "| bad | 0.500 |" in short
    assert "| (the exact field, by the same score) | " in short
    assert "| (KL of the tilt to the base) | 0.30 |" in short
    assert "| (share of the base's samples that reweighting leaves) | 0.68 |" in short
    assert "| (the adjoint's worst slope; least signal) | 0.97; 2 |" in short
    assert (folder / "arena.md").read_text() == short
    assert "| plain | good | 0.7 | 3 | 0.0200 ± 0.0058 |" in (folder / "all.md").read_text()
    assert "| 2.00 | 0.2800 ± 0.0058 | 0.4800 ± 0.0058 | 0.0200 ± 0.0058 | 100 | 3 |" in (folder / "all.md").read_text()
    assert (folder / "arena.png").read_bytes().startswith(b"\x89PNG")


def test_the_exact_field_is_at_the_tilt() -> None:
    assert abs(exact_field_error(PROBLEM, 0.7, points=512)) < 1e-3


@pytest.mark.parametrize("name", ["bridge_moons", "bridge_gaussian_16"])
def test_the_chain_of_a_bridge_reads_the_exact_tilt_as_itself(name: str) -> None:
    """64 coarser steps read 0.003 and −0.02 nats here, which hid what methods missed."""
    assert abs(exact_field_error(problem(name), 1.0, points=2048)) < 2e-3


def test_what_a_reward_leaves_of_a_gaussian() -> None:
    """(E e^{λr})²/E e^{2λr} = e^{−λ² cᵀSc} of r = cᵀx and N(m, S)."""
    spread = PROBLEM.base_law(torch.zeros(1, 2)).covariances[0]
    c = PROBLEM.reward.c
    assert effective_share(PROBLEM, 0.7) == pytest.approx(float(torch.exp(-(0.7**2) * c @ spread @ c)), rel=1e-5)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowportError, match="holds no finished runs"):
        jobs(tmp_path)


def test_a_sampler_without_training_is_a_row_of_its_own_name() -> None:
    shared = {"base_reward": 0.1, "frontier_reward": 0.9, "kl": 0.3, "reward": 0.8, "kl_to_tilt": 0.01, "exact_kl": 0.3}
    numbers = {f"arena/{name}": value for name, value in (shared | {"slope": 1.0, "signal": 2.0}).items()}
    numbers |= {"arena/w2": 0.4, "arena/w2_floor": 0.2, "arena/calls": 64.0, "train/seconds": 1.0}
    words = {"problem": "plain", "method": "path_weighted_adjoint", "solver": "twisted", "strength": "0.7"}
    (entry,) = results([(words, numbers | {"arena/weight_error": 0.1, "arena/mean_error": 0.2})])
    assert entry.method == "twisted" and entry["to_tilt"].mean == 0.01
    assert "| plain | twisted | 0.7 | 1 | 0.0100 |  | 0.100 | 0.200 |" in full_table([entry]), "and has no velocity"


def test_what_the_pilot_misses_is_told_with_its_error() -> None:
    def entry(method: str, mean: float, error: float, **more: MeanAndError) -> ArenaRun:
        return ArenaRun("plain", method, 1.0, {"to_tilt": MeanAndError(mean, error, 3), **more})

    learnt = {"velocity_error": MeanAndError(0.1, 0.0, 3)}
    pilot, near, far = entry("auto", 0.05, 0.03, **learnt), entry("a", 0.02, 0.04, **learnt), entry("b", 0.9, 0.0)
    found = above_least([pilot, far, near, entry("particles", -1.0, 0.0)])
    assert found is not None and (found.mean, found.error, found.n) == (pytest.approx(0.03), pytest.approx(0.05), 3)
    assert above_least([near]) is None and above_least([pilot]) is None


def test_the_page_of_results_takes_the_tables_without_edits(folder: Path) -> None:
    generate = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "generate.py"))
    text = folder / "all.md"
    draw(results(jobs(folder)), {"plain": PROBLEM}, folder)
    rows = text.read_text().replace("| plain |", "| hard |").replace("| 0.7 |", "| 1 |")
    text.write_text(rows + "| mild | good | 1 |\n| hard | good | 0.4 |\n")
    page = folder / "page.md"
    page.write_text(
        "a\n<!-- begin arena -->\nold\n<!-- end arena -->\nb\n<!-- begin separated -->\n<!-- end separated -->\nc"
    )
    generate["write_arena"](folder, page, folder.parent)
    short = (folder / "arena.md").read_text()
    kept = "\n".join(rows.splitlines())
    assert page.read_text() == (
        f"a\n<!-- begin arena -->\n{short}<!-- end arena -->\nb\n"
        f"<!-- begin separated -->\n{kept}\n<!-- end separated -->\nc"
    )
    assert (folder.parent / "arena.png").read_bytes() == (folder / "arena.png").read_bytes()
    page.write_text("a page without marks")
    with pytest.raises(SystemExit, match="no marks of the part arena"):
        generate["write_arena"](folder, page, folder.parent)
