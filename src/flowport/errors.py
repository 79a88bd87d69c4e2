"""The error for bad input, and the names of the members of a family in configs and messages."""

import re
import signal

IRREGULAR = {
    "DPMSolver": "dpm_solver",
    "DiT": "dit",
    "UNet": "unet",
    "PatchUNet": "patch_unet",
    "DRaFT": "draft",
    "ReFL": "refl",
}
"""Config names that are not the class name in snake case less the family's word: names of the literature."""


class FlowportError(ValueError):
    """Bad input: one sentence that names the key or file, what was found and what to write instead.

    The command line prints it without a traceback and exits with status 2.
    """


class Stopped(BaseException):
    """A signal ended the process; not an ``Exception``, so that nothing goes on after it.

    Args:
        number: Of the signal.
        state: What is saved, and how to go on.
    """

    def __init__(self, number: int, state: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {state}".strip())
        self.status = 128 + number


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey, for instance those of a file's name.

    Args:
        text: From a file that somebody else may have written.
    """
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


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
