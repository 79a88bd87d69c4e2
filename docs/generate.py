"""Writes docs/families.md from configs/ and docstrings, and serves the pictures of data/pictures to mkdocs.

``python docs/generate.py`` writes the page; ``python docs/generate.py --check`` fails where it is out of date, and
``--atlas <folder>`` puts the atlas of a sweep into docs/results/atlas.md, ``--arena <folder>`` the tables of the arena into
docs/results/arena.md. mkdocs runs this file as a hook. Needs PyYAML only: sources are read, not imported.
"""

import ast
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
PICTURES = ROOT / "data" / "pictures"
MEANING = {
    "distribution": "source and target: where points come from",
    "modality": "how raw data become points",
    "space": "where points live",
    "pairing": "how source and target points arrive together",
    "coupling": "how they are re-paired inside a minibatch",
    "cost": "what a coupling minimises",
    "path": "how a pair is joined",
    "network": "the function that is trained",
    "prediction": "what its output means",
    "conditioning": "what it sees beside x and t",
    "objective": "the loss",
    "time_sampler": "the law of t in the loss",
    "weighting": "the weight of t in the loss",
    "optimizer": "the optimiser",
    "scheduler": "its learning rate",
    "data": "batches and where data lie",
    "trainer": "Lightning's Trainer",
    "logger": "where a run writes its numbers, pictures, sounds and clouds; a list",
    "callback": "callbacks of training beside flowport's own; a list",
    "stage": "what a run trains",
    "solver": "how a field is integrated",
    "grid": "the times of its steps",
    "volatility": "the noise of the sampler",
    "guidance": "what a trained field becomes before it is sampled",
    "divergence": "of a likelihood",
    "metric": "what is measured on held-out data",
    "reward": "what fine-tuning wants",
    "method": "how fine-tuning learns",
    "adapter": "what fine-tuning changes",
    "discretisation": "the chain on which fine-tuning simulates",
    "problem": "problems with known tilts, for the arena",
    "process": "processes with known laws, for teaching",
    "experiment": "whole runs",
    "sweep": "whole studies",
}
"""The config groups in the order of the page."""


def classes() -> dict[str, str]:
    """Dotted module and class name -> first docstring line, of every class in src/flowport."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / "src" / "flowport").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found[f"{module}.{node.name}"] = paragraph(ast.get_docstring(node) or "")
    return found


def paragraph(text: str) -> str:
    """The first sentence or line of a docstring, on one line."""
    whole = " ".join(text.split("\n\n")[0].split())
    first = re.split(r"(?<=[.:;])\s+(?=[A-Z(])|(?<=\.)$", whole)[0]
    return first if len(first) <= 200 else first[:197].rsplit(" ", 1)[0] + " …"


def config(group: str, name: str) -> dict[str, Any]:
    """One config with what it inherits from members of its own group."""
    held = yaml.safe_load((ROOT / "configs" / group / f"{name}.yaml").read_text()) or {}
    for entry in held.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and (ROOT / "configs" / group / f"{entry}.yaml").is_file():
            held = {**config(group, entry), **held}
    return held


def comment(group: str, name: str) -> str:
    """The comment at the head of a config."""
    lines = []
    for line in (ROOT / "configs" / group / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return paragraph(" ".join(lines))


def target(held: dict[str, Any], known: dict[str, str]) -> tuple[str, str]:
    """(class as it is shown, first line of its docstring)."""
    name = str(held.get("_target_", ""))
    short = name.rsplit(".", 1)[-1]
    prefix = name.rsplit(".", 1)[0]
    lines = [line for full, line in known.items() if full.endswith(f".{short}") and full.startswith(prefix)]
    return (short if name.startswith("flowport.") else name), (lines[0] if lines else "")


def cell(text: str) -> str:
    """Text that a table can hold and that Markdown does not read as emphasis or HTML."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("``", "`")


def page() -> str:
    """The page's text."""
    known = classes()
    groups = sorted(p.name for p in (ROOT / "configs").iterdir() if p.is_dir() and any(p.glob("*.yaml")))
    order = [*(g for g in MEANING if g in groups), *(g for g in groups if g not in MEANING)]
    lines = [
        "# Families",
        "",
        "Every config group is a family, every file in it a member: `coupling=sinkhorn` on the command line. Options",
        "of a member are keys below it: `coupling.epsilon=0.02`. This page is written by `python docs/generate.py`.",
        "",
    ]
    for group in order:
        lines += [f"## {group}", ""]
        if group in MEANING:
            lines += [f"{MEANING[group][0].upper()}{MEANING[group][1:]}.", ""]
        members = sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml"))
        whole = group in ("experiment", "sweep")
        columns = ["member", "what it is"] if whole else ["member", "class", "what it is"]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        shared = [target(config(group, name), known)[0] for name in members]
        for name in members:
            said = comment(group, name)
            if whole:
                lines.append(f"| `{name}` | {cell(said)} |")
                continue
            shown, line = target(config(group, name), known)
            line_of = (said if shared.count(shown) > 1 else "") or line or said
            lines.append(f"| `{name}` | {f'`{shown}`' if shown else ''} | {cell(line_of)} |")
        lines.append("")
    return "\n".join(lines)


def write() -> None:
    """Write the page where it has changed."""
    text = page()
    if not PAGE.is_file() or PAGE.read_text() != text:
        PAGE.write_text(text)


def put(page: Path, part: str, text: str) -> None:
    """Replace a page's part between its marks ``<!-- begin part -->`` and ``<!-- end part -->``."""
    head, mark, rest = page.read_text().partition(f"<!-- begin {part} -->\n")
    _, end, tail = rest.partition(f"<!-- end {part} -->")
    if not mark or not end:
        raise SystemExit(f"{page} has no marks of the part {part}")
    page.write_text(f"{head}{mark}{text.rstrip()}\n{end}{tail}")


SEPARATED = ("hard", "mixture_16")
"""Problems of the arena whose modes lie apart, of which the page shows all scores."""


def write_arena(folder: Path, page: Path = ROOT / "docs" / "results" / "arena.md", pictures: Path = PICTURES) -> None:
    """Put the tables of a sweep of duels, which ``arena.py draw=<folder>`` has drawn, into their page, and the picture."""
    head, ruler, *rows = (folder / "all.md").read_text().splitlines()
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    kept = [row for row, cell in zip(rows, cells, strict=True) if cell[0] in SEPARATED and cell[2] == "1"]
    put(page, "arena", (folder / "arena.md").read_text())
    put(page, "separated", "\n".join([head, ruler, *kept]))
    (pictures / "arena.png").write_bytes((folder / "arena.png").read_bytes())


def write_atlas(folder: Path) -> None:
    """Put the atlas of a sweep's folder into its page of results, and its pictures beside the others."""
    text = re.sub(r"^#", "##", (folder / "atlas.md").read_text(), flags=re.M)
    for picture in sorted(folder.glob("atlas_*.png")):
        (PICTURES / picture.name).write_bytes(picture.read_bytes())
    text = re.sub(r"\]\((atlas_\d+\.png)\)", r"](../../data/pictures/\1)", text)
    put(ROOT / "docs" / "results" / "atlas.md", "atlas", text)


def on_pre_build(config: Any) -> None:
    """mkdocs: the page is written before files are collected."""
    write()


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: the pictures lie outside docs/."""
    from mkdocs.structure.files import File

    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """mkdocs: links to data/pictures lead to where ``on_files`` put them."""
    up = posixpath.relpath("pictures", posixpath.dirname(page.file.src_uri) or ".")
    return re.sub(r"\]\((?:\.\./)*data/pictures/", f"]({up}/", markdown)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text() == page()
        raise SystemExit(0 if same else "docs/families.md is out of date: run python docs/generate.py")
    if "--atlas" in sys.argv[1:]:
        write_atlas(Path(sys.argv[sys.argv.index("--atlas") + 1]))
    if "--arena" in sys.argv[1:]:
        write_arena(Path(sys.argv[sys.argv.index("--arena") + 1]))
    write()
