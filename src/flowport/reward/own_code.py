"""Rewards of the user's own code, by the name of an importable object or by a Python file and a name in it."""

import importlib
import importlib.util
import inspect
import re
import sys
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.reward.plain import adapted, name_of, raised

FILE = re.compile(r"(.+\.py):(\w+)")
"""A Python file and a name in it."""


def from_code(code: str, **options: Any) -> Reward:
    """The reward that a user's own code defines: a class, which is built, an object, or a function.

    This runs the code. Plain modules and functions become rewards (``flowport.reward.plain``).

    Args:
        code: ``package.module.Name`` of an importable object, or ``file.py:Name``.
        **options: Arguments of the class, or further arguments of the function.

    Raises:
        FlowportError: For code that is not there or fails, for options that it does not take, and for an object that
            is no reward.
    """
    found = located(code)
    if inspect.isclass(found):
        try:
            made = found(**options)
        except FlowportError:
            raise
        except Exception as error:
            raise FlowportError(f"reward={code} cannot be built from its options {options}: {raised(error)}") from error
        return adapted(made, name_of(found))
    if options and not inspect.isroutine(found):
        raise FlowportError(f"reward={code} is an object that is built already: it takes no {', '.join(options)}")
    return adapted(partial(found, **options) if options else found, name_of(found))


def located(code: str) -> Any:
    """The object that code names.

    Args:
        code: ``package.module.Name`` or ``file.py:Name``.

    Raises:
        FlowportError: For a file or a package that is not there, one that fails when it is read, and a name that it
            does not have.
    """
    file = FILE.fullmatch(code)
    if file:
        place, name = file.groups()
        module = _of_file(Path(place).expanduser(), code)
    else:
        place, _, name = code.rpartition(".")
        module = _of_package(place, code)
    if name not in vars(module):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        raise FlowportError(f"reward={code}: {place} has no {name}; it defines {', '.join(own) or 'nothing'}")
    return vars(module)[name]


def _of_package(name: str, code: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise FlowportError(
                f"reward={code}: no package {error.name} is installed; a file is named by reward=<file>.py:<name>"
            ) from None
        raise FlowportError(f"reward={code}: {name} cannot be imported: {raised(error)}") from error
    except Exception as error:
        raise FlowportError(f"reward={code}: {name} cannot be imported: {raised(error)}") from error


def _of_file(path: Path, code: str) -> ModuleType:
    if not path.is_file():
        raise FlowportError(
            f"reward={code}: there is no file {path}; where it was moved after a tuning, put it back, or write its new "
            "place into the config of the run (.hydra/config.yaml)"
        )
    digest = sha256(path.read_bytes()).hexdigest()
    try:
        return _loaded(path.absolute(), digest)
    except Exception as error:
        installed = "; a file may import installed packages, not files beside it"
        missing = installed if isinstance(error, ModuleNotFoundError) else ""
        raise FlowportError(f"reward={code}: {path} cannot be read: {raised(error)}{missing}") from error


@cache
def _loaded(path: Path, digest: str) -> ModuleType:
    """The module of a file of one content; the files beside it are not importable, since none has seen them."""
    spec = importlib.util.spec_from_file_location(f"own_{digest[:16]}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses and pickle expect
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def is_reward(code: str) -> bool:
    """Whether code is a class of rewards, which a config can name as its target.

    Args:
        code: As of ``from_code``.

    Raises:
        FlowportError: As of ``located``.
    """
    found = located(code)
    return inspect.isclass(found) and issubclass(found, Reward)


def signature_of(code: str) -> tuple[dict[str, Any], bool]:
    """The options that code takes with their defaults, ``???`` where there is none, and whether it needs a classifier.

    Defaults that no config holds, such as functions, are left out; they stay as they are.

    Args:
        code: As of ``from_code``.

    Raises:
        FlowportError: As of ``located``.
    """
    found = located(code)
    if not inspect.isclass(found) and not inspect.isroutine(found):
        return {}, False
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return {}, False
    kept = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not inspect.isclass(found):  # of which the first two are the points and the condition
        kept = [p for p in kept if p.default is not p.empty or p.kind is p.KEYWORD_ONLY]
        kept = [p for p in kept if p.name != "condition"]
    options = {p.name: "???" if p.default is p.empty else p.default for p in kept if p.name != "classifier"}
    waits = any(p.name == "classifier" and p.default is p.empty for p in kept)
    if "code" in options:
        raise FlowportError(f"reward={code} takes an argument called code, which names the code itself: rename it")
    return {name: value for name, value in options.items() if _holds(value)}, waits


def _holds(value: Any) -> bool:
    """Whether a config holds a value."""
    if isinstance(value, list | tuple):
        return all(map(_holds, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _holds(each) for name, each in value.items())
    return value is None or isinstance(value, bool | int | float | str)
