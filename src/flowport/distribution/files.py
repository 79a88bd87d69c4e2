"""The contract of a kind of files: how a file of the user's becomes raw items, and raw items a file again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowport.errors import Checked


class MissingPackage(ValueError):
    """A file cannot be read because a package is not installed, which says nothing about the file."""


@dataclass(frozen=True)
class Reading:
    """What was read of one file.

    Args:
        items: Raw items, (k, …), all of one shape.
        note: What a reader had to decide for this file, said once with the number of such files; empty for nothing.
        centre: Centre that was subtracted from a point cloud, (3,); 0 for other kinds.
        scale: Length by which a point cloud was divided; 1 for other kinds.
    """

    items: NDArray[Any]
    note: str = ""
    centre: NDArray[Any] = field(default_factory=lambda: np.zeros(3))
    scale: float = 1.0


class Files(Checked, ABC):
    """Files of one kind (pictures, recordings, shapes) and the settings by which they are read.

    A member sets the attributes and provides ``read`` and ``write``.

    To add a member: subclass this class in a new module ``<kind>_files.py`` of this folder, use it in a folder
    distribution of user_folders.py, and give it in ``files_of`` of flowport/run/translated_files.py to its modality.
    Tests belong to tests/distribution.

    Attributes:
        kind: What the files are called in messages.
        suffixes: Suffixes that are read, in lower case, with the dot.
        unread: Suffixes of such files that are not read, and what to do about them.
        packages: Modules that read them and their packages, whose versions belong to the hash of a decoded folder.
        rewritten: Suffixes that are written as another one.
        plain: Suffix of files that are written for no file.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    unread: ClassVar[Mapping[str, str]] = {}
    packages: ClassVar[Mapping[str, str]] = {}
    rewritten: ClassVar[Mapping[str, str]] = {}
    plain: ClassVar[str]

    @abstractmethod
    def read(self, path: Path) -> Reading:
        """The raw items of a file.

        Args:
            path: The file.

        Raises:
            ValueError: When it cannot be understood. Readers of damaged files raise other exceptions too.
        """

    @abstractmethod
    def write(self, raw: Tensor, path: Path, suffix: str, reading: Reading) -> None:
        """Write one raw item as a file.

        Args:
            raw: A raw item of a flow's result, (…).
            path: The file, of any name.
            suffix: Its format, a suffix of ``written``.
            reading: What was read of the file that was translated.
        """

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The settings as plain values, by which an equal object is built."""

    def written(self, suffix: str) -> str:
        """The suffix of the file that is written for one that was read.

        Args:
            suffix: In lower case, with the dot.
        """
        return self.rewritten.get(suffix, suffix if suffix in self.suffixes else self.plain)
