"""Recordings of operations that are replayed without Python: CUDA graphs.

References:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation" (CUDA graphs), doi:10.1145/3620665.3640366.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import ClassVar

import torch

from flowport.errors import FlowportError

WARM_UP = 3
"""Executions before a recording, in which libraries allocate what they keep."""


class Recording(ABC):
    """Operations that are recorded once and replayed as often as wanted, on the tensors of the recording.

    Attributes:
        on_device: Whether a replay runs without Python, so that every number of the recording is a constant.
    """

    on_device: ClassVar[bool]

    @abstractmethod
    def record(self, body: Callable[[], None]) -> None:
        """Record operations, which are not executed.

        Args:
            body: Calls the operations.

        Raises:
            RuntimeError: For an operation that cannot be recorded.
        """

    @abstractmethod
    def replay(self) -> None:
        """Execute the recorded operations."""


class GraphRecording(Recording):
    """A CUDA graph.

    Args:
        device: Where the operations run.
        generator: Generator that the operations draw from besides the default one; it may be seeded before a replay.
        pool: Recording whose memory is shared, which must never be replayed at the same time.
    """

    on_device = True

    def __init__(
        self,
        device: torch.device,
        generator: torch.Generator | None = None,
        pool: "GraphRecording | None" = None,
    ) -> None:
        self.device, self.graph = device, torch.cuda.CUDAGraph()
        if generator is not None:
            self.graph.register_generator_state(generator)
        self.pool = None if pool is None else pool.graph.pool()

    def record(self, body: Callable[[], None]) -> None:
        # thread_local: a thread that draws batches ahead may allocate memory at the same time
        graph = torch.cuda.graph(
            self.graph, pool=self.pool, stream=_stream(self.device), capture_error_mode="thread_local"
        )
        with torch.cuda.device(self.device), graph:
            body()

    def replay(self) -> None:
        with torch.cuda.device(self.device):
            self.graph.replay()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on a device; torch's own default is that of the first capture of the process."""
    return torch.cuda.Stream(device)


@contextmanager
def warming_up(recording: Recording, device: torch.device) -> Iterator[None]:
    """Within this context operations run on another stream of CUDA, as a capture asks of what runs before it.

    Args:
        recording: What will be recorded.
        device: Where.
    """
    if not recording.on_device:
        yield
        return
    with torch.cuda.device(device):
        stream = _stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)


def recorded(recording: Recording, body: Callable[[], None], what: str, advice: str) -> None:
    """Record operations, or say what could not be recorded.

    Args:
        recording: Into which they are recorded.
        body: Calls the operations.
        what: What they are, the first words of the error.
        advice: What to do, its last words.

    Raises:
        FlowportError: For an operation that cannot be recorded, with the first reason that was given.
        OutOfMemoryError: Of torch, where the device has no memory left.
    """
    reasons: list[RuntimeError] = []

    def watched() -> None:
        try:
            body()
        except RuntimeError as error:
            reasons.append(error)
            raise

    try:
        recording.record(watched)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the end of a failed capture fails too, and says less
        first = reasons[0] if reasons else error
        if isinstance(first, torch.cuda.OutOfMemoryError):
            raise first from error
        reason = str(first).strip().splitlines()[0]
        raise FlowportError(f"{what} cannot be recorded in a CUDA graph ({reason}): {advice}") from error
