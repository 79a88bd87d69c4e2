"""The house rules that a machine can check."""

import ast
import re
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "flowport").rglob("*.py"))
LEVELS = [
    {"errors", "shapes", "broadcast", "inversion", "randomness", "transfer", "values", "keeping"},
    {"modality"},
    {"distribution"},
    {"joint", "conditioning", "normalisation"},
    {"cost", "path", "time_sampler", "reward", "placement"},
    {"coupling"},
    {"network", "prediction"},
    {"classifier", "capabilities", "space", "residual"},
    {"field", "volatility"},
    {"weighting", "dynamics", "grid", "change", "diffusion", "process", "divergence", "guidance"},
    {"adjoint"},
    {"solver"},
    {"objective", "metric", "schedule", "report", "tabulate", "world", "laboratory", "likelihood"},
    {"translator"},
    {"evaluation", "guard", "averaging", "module", "fine_tuning", "data", "certificate"},
    {"callback", "restore", "composition", "emphasis"},
    {"arena"},
    {"experiment"},
    {"reuse", "tuning", "boosting"},
    {"reflow"},
    {"stage"},
    {"command"},
    {"bases"},
]
"""Imports point to lower levels or within a level's own family, never up."""
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}


def family(path: Path) -> str:
    return path.relative_to(ROOT / "src" / "flowport").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_files_are_short_and_well_named() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {p.name: n for p, n in lengths.items() if n > 300} == {}
    assert median(lengths.values()) < 100
    nothing = {"utils", "helpers", "common", "misc"}
    assert [p for p in SOURCES if nothing & set(p.relative_to(ROOT).with_suffix("").parts)] == []


def test_hydra_lives_in_two_files() -> None:
    users = {path.name for path in SOURCES if any(n.split(".")[0] == "hydra" for n in imported(path))}
    assert users == {"command.py", "experiment.py"}


def test_imports_point_down() -> None:
    wrong = []
    for path in SOURCES:
        own = family(path)
        if own == "__init__":
            continue
        assert own in LEVEL, f"{own} has no level in tests/test_house.py"
        for name in imported(path):
            parts = name.split(".")
            inside = parts[0] == "flowport" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != own
            if inside and LEVEL[parts[1]] > LEVEL[own]:
                wrong.append(f"{path.name} -> {name}")
    assert wrong == []


def test_no_forbidden_imports_and_habits() -> None:
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"torchvision", "torchaudio", "torchdyn"}, path
        text = path.read_text()
        assert not re.search(r"\bhasattr\(|numpy\.random|np\.random|from __future__ import annotations", text), path
        assert 'device="cuda"' not in text, path


def test_the_reading_path_is_short() -> None:
    """What a newcomer reads first: conventions, the sentence, the loss, the module."""
    files = [
        "src/flowport/__init__.py",
        "configs/train.yaml",
        "src/flowport/objective/flow_matching.py",
        "src/flowport/module.py",
    ]
    assert sum(len((ROOT / name).read_text().splitlines()) for name in files) < 250


def test_every_module_says_what_it_is() -> None:
    assert [p.name for p in SOURCES if ast.get_docstring(ast.parse(p.read_text())) is None] == []
