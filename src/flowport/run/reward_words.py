"""Words by which a command line names rewards: own code, a TorchScript file, and several at once.

    reward=package.module.Name     an importable class, module or function
    reward=file.py:Name            the same in a Python file
    reward=judge.pt                a TorchScript program
    reward=[brightness,judge.pt]   a sum; brightness+judge.pt in a yaml

They are configs of the group ``reward`` which Hydra reads from here (``hydra_plugins.flowport_rewards``), so that
options are ``reward.<key>=<value>`` and sweeps work as for the members of the group. Light to import.
"""

import re
from pathlib import Path
from typing import Any

from flowport.errors import FlowportError, member_name

NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
CODE = re.compile(r"(?:.+\.py):(\w+)")
PROGRAM = re.compile(r".+\.(?:pt|pth|ts|torchscript)")
SEVERAL = "+"
"""What stands between the rewards of a sum."""
FORMS = "package.module.Name, file.py:Name or judge.pt of your own"
"""What a word may also be, for messages."""


def in_one_word(value: str) -> str:
    """A value of ``reward=`` with each list [a,b] as a+b, which Hydra takes for one config.

    Args:
        value: As the user wrote it, of a sweep with commas between its choices. A list that lacks a name is kept.
    """

    def joined(found: re.Match[str]) -> str:
        names = [name.strip().strip("'\"") for name in found[1].split(",")]
        return SEVERAL.join(names) if all(names) else found[0]

    return re.sub(r"\[([^\[\]]*)\]", joined, value)


def is_own(word: str) -> bool:
    """Whether a word names a reward that is no member of the group ``reward``.

    Args:
        word: The value of ``reward=``.
    """
    return SEVERAL in word or any(form.fullmatch(word) for form in (NAME, CODE, PROGRAM))


def config_of(word: str, group: Path) -> dict[str, Any]:
    """The config of a word, with the options of what it names.

    Args:
        word: For which ``is_own`` holds.
        group: The folder of the group ``reward``.

    Raises:
        FlowportError: For code that is not there, fails, or is no reward, and for a name that is no reward.
    """
    place = word.rpartition(":")[0] if CODE.fullmatch(word) else word
    if SEVERAL not in word or Path(place).expanduser().is_file():  # a file may have + in its name
        return _one(word)
    return _sum(word.split(SEVERAL), group)


def _one(word: str) -> dict[str, Any]:
    """The config of own code or of a program."""
    if PROGRAM.fullmatch(word):
        return {"_target_": "flowport.reward.FromFileReward", "path": str(Path(word).expanduser()), "label": None}
    from flowport.reward.own_code import FILE, is_reward, signature_of

    file = FILE.fullmatch(word)
    code = f"{Path(file[1]).expanduser().absolute()}:{file[2]}" if file else word
    options, waits = signature_of(code)
    plain = file or not is_reward(code)
    node: dict[str, Any] = {"_target_": "flowport.reward.from_code", "code": code} if plain else {"_target_": code}
    return node | ({"_partial_": True} if waits else {}) | options


def _sum(parts: list[str], group: Path) -> dict[str, Any]:
    """The config of a sum: its members by the defaults list, what is of the user within."""
    names = _names(parts)
    own = {name: _one(part) for name, part in names.items() if is_own(part)}
    members = {name: part for name, part in names.items() if name not in own}
    for part in members.values():
        if not (group / f"{part}.yaml").is_file():
            known = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
            raise FlowportError(f"reward={part} does not exist: choose {known}, or {FORMS}")
    waiting = ["_partial_" in node for node in own.values()]
    waiting += ["_partial_: true" in (group / f"{part}.yaml").read_text() for part in members.values()]
    return {
        "defaults": [f"{part}@terms.{name}" for name, part in members.items()] + ["_self_"],
        "_target_": "flowport.reward.SumReward",
        "_convert_": "all",
        **({"_partial_": True} if any(waiting) else {}),
        "terms": own,
        "weights": dict.fromkeys(names, 1.0),
    }


def _names(parts: list[str]) -> dict[str, str]:
    """A name for each reward, by which its options and its weight are said."""
    return dict(zip(numbered([word_name(part) for part in parts]), parts, strict=True))


def word_name(word: str) -> str:
    """What a reward is called that a word names.

    Args:
        word: A name of the group ``reward``, own code or a program.
    """
    code = CODE.fullmatch(word)
    if not code and PROGRAM.fullmatch(word):
        name = Path(word).stem
    else:
        name = member_name(code[1] if code else word.rpartition(".")[2], "reward")
    return re.sub(r"\W", "_", name)


def numbered(names: list[str]) -> list[str]:
    """Names of which none stands twice: a second judge is called judge_2.

    Args:
        names: As they were found.
    """
    found: list[str] = []
    for name in names:
        choices = [name, *(f"{name}_{n}" for n in range(2, len(names) + 1))]
        found.append(next(choice for choice in choices if choice not in found))
    return found
