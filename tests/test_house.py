"""The house rules that a machine can check."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "flowport").rglob("*.py"))
LEVELS = [
    {"errors", "tensors", "types", "randomness", "cache"},
    {"modality"},
    {"distribution"},
    {"conditioning", "network", "path", "cost", "reward"},
    {"prediction", "coupling"},
    {"data"},
    {"capabilities"},
    {"field"},
    {"objective", "sampling"},
    {"metric"},
    {"finetuning"},
    {"evaluation"},
    {"training"},
    {"problem"},
    {"run"},
    {"api"},
]
"""The order of the top-level modules and packages: imports point to an earlier level or within a package, never up."""
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


def test_no_name_says_nothing() -> None:
    nothing = {"utils", "helpers", "common", "misc"}
    assert [p for p in SOURCES if nothing & set(p.relative_to(ROOT).with_suffix("").parts)] == []


def test_the_root_of_the_package_has_few_places() -> None:
    root = ROOT / "src" / "flowport"
    places = [p for p in root.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")]
    assert len(places) <= 27


def test_the_formatter_knows_no_exception() -> None:
    files = [p for folder in ("src", "launch", "tests") for p in (ROOT / folder).rglob("*.py")]
    assert [p for p in files if re.search(r"# fmt: (skip|off)", p.read_text()) and p != Path(__file__)] == []


SHARED = {"base", "__init__", "__main__", "bridge", "cloud", "features", "image", "shortcut", "sound", "sum", "noise"}
"""Stems of several modules: every package's base, and members that two families share."""


def test_no_module_stem_and_no_class_name_stands_twice() -> None:
    stems = Counter(p.stem for p in SOURCES)
    assert {stem: n for stem, n in stems.items() if n > 1 and stem not in SHARED} == {}
    classes = Counter(
        n.name for p in SOURCES for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.ClassDef)
    )
    assert {name: n for name, n in classes.items() if n > 1} == {}


def test_hydra_lives_in_the_run_folder() -> None:
    users = {path.name for path in SOURCES if any(n.split(".")[0] == "hydra" for n in imported(path))}
    assert users == {
        "build.py",
        "cli.py",
        "commands.py",
        "config_checks.py",
        "local_worker.py",
        "restore.py",
        "search_space.py",
        "stage.py",
        "sweep_composer.py",
        "sweep_job.py",
        "train.py",
        "trials.py",
        "words.py",
    }


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
        if path.name == "process_state.py":  # restores the global state that a user's own part may have changed
            text = text.replace("np.random.", "").replace("matplotlib.pyplot", "").replace("pyplot", "")
        assert not re.search(r"\bhasattr\(|numpy\.random|np\.random|from __future__ import annotations", text), path
        assert 'device="cuda"' not in text, path
        assert not re.search(r"pyplot|matplotlib\.use", text), f"{path} touches matplotlib's global state: use Figure"


def test_the_reading_path_is_short() -> None:
    """What a newcomer reads first: conventions, the sentence, the loss, the module."""
    files = [
        "src/flowport/__init__.py",
        "configs/train.yaml",
        "src/flowport/objective/flow_matching.py",
        "src/flowport/training/flow_module.py",
    ]
    assert sum(len((ROOT / name).read_text().splitlines()) for name in files) < 250


def test_every_module_says_what_it_is() -> None:
    assert [p.name for p in SOURCES if ast.get_docstring(ast.parse(p.read_text())) is None] == []


def forks(text: str) -> list[int]:
    """Lines that copy a process which may hold CUDA: forks, start methods that are not spawn, and none at all."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in {"fork", "forkpty"} and ast.unparse(node.value) == "os":
            found.append(node.lineno)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        named = {k.arg: k.value for k in node.keywords}
        method = named.get("start_method") or (node.args[0] if name in STARTS and node.args else None)
        if name in STARTS or "start_method" in named:
            found += [] if isinstance(method, ast.Constant) and method.value == "spawn" else [node.lineno]
        if name in {"Pool", "Process", "Manager"} and ast.unparse(node.func) == f"multiprocessing.{name}":
            found.append(node.lineno)
        if name == "ProcessPoolExecutor" and "mp_context" not in named and len(node.args) < 2:
            found.append(node.lineno)
        if name == "DataLoader" and "num_workers" in named and "multiprocessing_context" not in named:
            found.append(node.lineno)
        if "preexec_fn" in named:
            found.append(node.lineno)
    return found


STARTS = {"get_context", "set_start_method"}


def test_no_process_is_forked() -> None:
    """CUDA does not survive a fork, and threads of a library neither: a process is spawned, or a fresh one."""
    files = [p for folder in ("src", "launch", "tests") for p in (ROOT / folder).rglob("*.py")]
    assert {f"{p.relative_to(ROOT)}: {found}" for p in files if (found := forks(p.read_text()))} == set()


def test_the_reader_sees_forks() -> None:
    for text in (
        "child = os.fork()",
        "multiprocessing.get_context('fork')",
        "multiprocessing.get_context()",
        "get_context(method)",
        "multiprocessing.set_start_method('forkserver')",
        "multiprocessing.Process(target=f)",
        "DDPStrategy(start_method='fork')",
        "ProcessPoolExecutor(3)",
        "DataLoader(data, num_workers=2)",
        "subprocess.Popen(words, preexec_fn=f)",
    ):
        assert forks(text), text
    for text in (
        "multiprocessing.get_context('spawn').Process(target=f)",
        "ProcessPoolExecutor(3, get_context('spawn'))",
        "DDPStrategy(start_method='spawn')",
        "DataLoader(data)",
        "torch.random.fork_rng(devices=[])",
        "subprocess.run(words)",
    ):
        assert not forks(text), text
