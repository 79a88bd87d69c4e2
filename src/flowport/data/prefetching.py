"""Training batches in order, some of them prepared ahead of their step by a background thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch.utils.data import IterableDataset

from flowport.data.pairing import tensors_of
from flowport.types import Pair

Made = tuple[Pair, torch.cuda.Event | None]
"""A batch, and the event of the stream that makes it; None where it is made in order with the step."""


class Batches(IterableDataset[Pair]):
    """Endless batches from a first step on, each repeated; some are prepared ahead in a background thread.

    On CUDA the thread works on a stream of its own, so that what it reads back, such as the costs of an exact coupling,
    waits for its own work and not for the training steps that are queued. The step's stream waits for the batch, not
    the host. An exception of the thread is raised at the step whose batch it was making.

    Args:
        at: The batch of a step.
        first: The first step, asked for when the iteration begins.
        ahead: Number of batches prepared ahead; 0 makes each batch when it is asked for.
        repeat: Number of successive steps that use the same batch.
        device: The device on which batches are made.
    """

    def __init__(
        self,
        at: Callable[[int], Pair],
        first: Callable[[], int],
        ahead: int,
        repeat: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.at, self.first, self.ahead, self.repeat = at, first, ahead, repeat
        self.device = torch.device(device)

    def __iter__(self) -> Iterator[Pair]:
        number, repeated = divmod(self.first(), self.repeat)
        for pair in self._from(number):
            for _ in range(repeated, self.repeat):
                yield pair
            repeated = 0

    def _from(self, step: int) -> Iterator[Pair]:
        if self.ahead == 0:
            while True:
                yield self.at(step)
                step += 1
        lane = self._lane()
        with ThreadPoolExecutor(1, "batches") as worker:
            queue: list[Future[Made]] = [worker.submit(self._made, step + k, lane) for k in range(self.ahead)]
            try:
                while True:
                    queue.append(worker.submit(self._made, step + self.ahead, lane))
                    yield _received(*queue.pop(0).result())
                    step += 1
            finally:
                for future in queue:
                    future.cancel()
                if lane is not None:
                    lane.synchronize()  # what the stream of batches keeps may then be used on any other

    def _lane(self) -> torch.cuda.Stream | None:
        """The stream of the thread, behind what was queued before, such as the copies of resident data."""
        if self.device.type != "cuda":
            return None
        lane = torch.cuda.Stream(self.device)
        lane.wait_stream(torch.cuda.current_stream(self.device))
        return lane

    def _made(self, step: int, lane: torch.cuda.Stream | None) -> Made:
        if lane is None:
            return self.at(step), None
        with torch.cuda.stream(lane):
            return self.at(step), lane.record_event()


def _received(pair: Pair, made: torch.cuda.Event | None) -> Pair:
    """A batch for the current stream, which waits until it is made and holds its memory until it is used."""
    if made is None:
        return pair
    current = torch.cuda.current_stream(pair.source.x.device)
    current.wait_event(made)
    for tensor in [*tensors_of(pair).values(), *pair.facts.values()]:
        if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
            tensor.record_stream(current)
    return pair
