"""Every public name is documented by one convention (Google): what it is, its arguments, what it raises, a reference.

Ruff's D rules hold the form. Held here is what ruff cannot see: a method may inherit its docstring, a class lists the
arguments of its constructor, and a member of a mathematical family names the paper it comes from.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import flowport
from flowport.network import Network

MODULES = sorted(m.name for m in pkgutil.walk_packages(flowport.__path__, "flowport.") if "__main__" not in m.name)
MATHEMATICAL = (
    "flowport.coupling",
    "flowport.cost",
    "flowport.path",
    "flowport.prediction",
    "flowport.network",
    "flowport.objective",
    "flowport.sampling",
    "flowport.field",
    "flowport.finetuning",
    "flowport.metric",
)
"""Packages whose concrete classes name their source in the literature, in the class's docstring or the module's."""
ELEMENTARY = {
    "EvaluationResult",
    "Loss",
    "Footprint",
    "Rollout",
    "Sampler",
    "SharedField",
    "StandardisedCost",
    "SumCost",
    "Trajectory",
    "Translator",
    "Unguided",
    "UniformGrid",
}
"""Classes of these packages that are a definition or our own construction, which no paper has to be read for."""
REFERENCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|arXiv:[a-z-]+/\d{7}|doi:10\.\d{4,}/\S+|ISBN")


def members(module: Any) -> Iterator[tuple[str, Any]]:
    """The public classes and functions that a module defines."""
    for name, member in vars(module).items():
        public = (inspect.isclass(member) or inspect.isfunction(member)) and not name.startswith("_")
        if public and getattr(member, "__module__", None) == module.__name__:
            yield name, member


def parameters(function: Any) -> list[str]:
    """The names that a caller may pass, less the one that every network takes and ``Network`` documents."""
    names = inspect.signature(function).parameters
    shared = {"compile"} if inspect.isclass(function) and Network in function.__mro__[1:] else set()
    return [name for name in names if name not in ("self", "cls", *shared) and not name.startswith("_")]


def listed(doc: str, section: str = "Args") -> set[str]:
    """The names under ``Args:``."""
    found = re.search(rf"^{section}:\n((?:[ \t]+.*\n?|\n)+)", doc + "\n", re.M)
    if found is None:
        return set()
    names = re.findall(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", found.group(1), re.M)
    return {name.strip("* ") for group in names for name in group.split(",")}


def undocumented(name: str, function: Any, doc: str | None) -> Iterator[str]:
    """What is missing in the docstring of a function or constructor."""
    if not doc:
        yield f"{name} has no docstring"
        return
    wanted, found = set(parameters(function)), listed(doc)
    if missing := sorted(wanted - found):
        yield f"{name} does not list {', '.join(missing)} under Args:"
    if more := sorted(found - wanted):
        yield f"{name} lists {', '.join(more)} under Args:, which it does not take"


def owner(cls: type, name: str) -> tuple[type, Any] | None:
    """The nearest class that documents a method, and its function there."""
    for base in cls.__mro__:
        member = vars(base).get(name)
        if member is not None and getattr(member, "__doc__", None):
            return base, member
    return None


def of_class(name: str, cls: type) -> Iterator[str]:
    """What is missing in a class and its methods."""
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
        yield f"{name} has no docstring"
    elif getattr(cls, "_is_protocol", False):
        pass  # its constructor is typing's
    elif "__init__" in vars(cls) or (dataclasses.is_dataclass(cls) and "__dataclass_fields__" in vars(cls)):
        yield from undocumented(name, cls, inspect.cleandoc(cls.__doc__))
    for key, member in vars(cls).items():
        if key.startswith("_") or not (
            inspect.isfunction(member) or isinstance(member, staticmethod | classmethod | property)
        ):
            continue
        found = owner(cls, key)
        if found is None:
            yield f"{name}.{key} has no docstring"
        elif found[0].__module__.startswith("flowport") and not isinstance(found[1], property):
            function = inspect.unwrap(getattr(found[1], "__func__", found[1]))
            if found[0] is cls:
                yield from undocumented(f"{name}.{key}", function, inspect.getdoc(found[1]))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented_with_its_arguments(module: str) -> None:
    faults: list[str] = []
    imported = importlib.import_module(module)
    assert imported.__doc__, module
    for name, member in members(imported):
        if inspect.isclass(member):
            faults += of_class(name, member)
        else:
            faults += undocumented(name, inspect.unwrap(member), inspect.getdoc(member))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("module", MODULES)
def test_what_a_public_function_raises_is_documented(module: str) -> None:
    faults = []
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for outer in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]:
        for node in outer.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            documented = outer if node.name in ("__init__", "__post_init__") else node
            if node.name.startswith("_") and documented is node:
                continue
            raised = [n for n in ast.walk(node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
            names = {getattr(n.exc.func, "id", None) for n in raised if isinstance(n.exc, ast.Call)}
            if "FlowportError" in names and "Raises:" not in (ast.get_docstring(documented) or ""):
                faults.append(f"{getattr(outer, 'name', module)}.{node.name} raises FlowportError but has no Raises:")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(MATHEMATICAL)])
def test_a_member_of_a_mathematical_family_names_its_source(module: str) -> None:
    imported = importlib.import_module(module)
    faults = [
        name
        for name, member in members(imported)
        if inspect.isclass(member)
        and not inspect.isabstract(member)
        and not name.endswith(("Base", "Error"))
        and name not in ELEMENTARY
        and not REFERENCE.search((member.__doc__ or "") + (imported.__doc__ or ""))
    ]
    assert not faults, f"{faults} give no reference (arXiv:…, doi:…) in their docstring or their module's"
