"""The error for bad input, the ranges of constructors' arguments, and the names of members in configs and messages."""

import functools
import inspect
import math
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

IRREGULAR = {
    "DPMSolver": "dpm_solver",
    "DiT": "dit",
    "UNet": "unet",
    "ADMUNet": "adm_unet",
    "PatchUNet": "patch_unet",
    "DRaFT": "draft",
    "DiffusionNFT": "diffusion_nft",
    "ReFL": "refl",
}
"""Config names that are not the class name in snake case less the family's word: names of the literature."""


class FlowportError(ValueError):
    """Bad input: one sentence that names the key or file, what was found and what to write instead.

    The command line prints it without a traceback and exits with status 2. Control characters, which a terminal would
    obey and which another's file may hold, are replaced.

    Args:
        message: The sentence.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class Stopped(BaseException):
    """A signal ended the process; not an ``Exception``, so that nothing goes on after it.

    Args:
        number: Of the signal.
        state: What is saved, and how to go on.

    Attributes:
        received: The last signal that came outside of training; a library may have caught what was raised for it.
    """

    received: ClassVar[int | None] = None

    def __init__(self, number: int, state: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {state}".strip())
        self.status, self.state = 128 + number, state


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey, for instance those of a file's name.

    Args:
        text: From a file that somebody else may have written.
    """
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def is_number(text: str) -> bool:
    """Whether a text is a number, infinite ones and NaN among them.

    Args:
        text: The text.
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def member_name(member: type | str, family: str) -> str:
    """The config name of a class: its name in snake case, less the family's word.

    Args:
        member: A class of a family or its name, for instance ``UniformGrid``.
        family: The family's config group, for instance ``"grid"``.

    Returns:
        For instance ``"uniform"``.
    """
    name = member if isinstance(member, str) else member.__name__
    if name in IRREGULAR:
        return IRREGULAR[name]
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return snake.removesuffix(f"_{family}")


def option(family: str, member: object) -> str:
    """The override that selects an object's class, for instance ``"grid=uniform"``, as messages name it.

    Args:
        family: The family's config group.
        member: An instance of one of its classes.
    """
    return f"{family}={member_name(type(member), family)}"


@dataclass(frozen=True)
class Range:
    """The range of a number, as metadata of a type hint: ``Annotated[float, Range(above=0)]``.

    Args:
        least: The least value that is allowed.
        most: The largest one.
        above: A bound that the value must exceed.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def fault(self, value: float) -> str | None:
        """What is wrong with a value and what it must be, None where it is allowed.

        Args:
            value: The value.
        """
        if self.most is not None and value > self.most:
            return f"too large: it must be at most {self.most:,}"
        if self.least is not None and value < self.least:
            return f"too small: it must be at least {self.least}"
        if self.above is not None and value <= self.above:
            return f"too small: it must be above {self.above}"
        return None


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
Count = Annotated[int, Range(least=1)]
Amount = Annotated[int, Range(least=0)]
SampleSize = Annotated[int, Range(least=2)]
"""Number of points of a sample, of which a distance between two samples needs two."""


def check_range(name: str, value: Any, hint: Any) -> None:
    """Check that a number, or every number of a sequence, is finite and in the range that a type hint declares.

    Args:
        name: Its name in the message.
        value: The value; what is no number passes.
        hint: Its type hint.

    Raises:
        FlowportError: For NaN, infinity, or a number out of range.
    """
    if isinstance(value, (list, tuple)):
        for each in value:
            check_range(name, each, next(iter(get_args(hint)), Any))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value):
        raise FlowportError(f"{name}={value} is not a finite number")
    marks = [mark for part in (hint, *get_args(hint)) for mark in getattr(part, "__metadata__", ())]
    if isinstance(value, int):
        marks.append(Range(most=2**63 - 1))  # which C's whole numbers hold
    for allowed in marks:
        if isinstance(allowed, Range) and (fault := allowed.fault(value)):
            raise FlowportError(f"{name}={value} is {fault.replace('it', name, 1)}")


def ranged_hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The type hints of a function's arguments with their ranges; none where a name in them cannot be found.

    Args:
        function: A function, or a class's ``__init__``.
    """
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


class Checked:
    """Base of what users construct: every number is checked by the range that its type hint declares.

    The arguments of ``__init__`` must be finite and in the range of ``Annotated[…, Range(…)]``, from Python and from
    configs alike. Conditions between several arguments stay with the class.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)
    hints = functools.cache(lambda: ranged_hints(init))

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        try:
            given = signature.bind(self, *args, **options).arguments
        except TypeError:
            given = {}  # the constructor's own message is the better one
        for name, value in given.items():
            if name in hints():
                check_range(f"{type(self).__name__}.{name}", value, hints()[name])
        init(self, *args, **options)

    return checked
