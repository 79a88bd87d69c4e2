"""The training step reads nothing back from the device, so the device never waits for the host.

On the CPU the operations are counted that would wait elsewhere (reading a number, counting what is not zero); with CUDA
the same steps run under torch's own watch. Copies to the device, couplings, translations and roll-outs: test_copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowport.coupling import Coupling, ExactCoupling, IndependentCoupling
from flowport.data.pairing import UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import MNIST, EightGaussians, Ellipsoid, Gaussian, Moons, Notes, Torus
from flowport.distribution.instrument import Brass, Flute
from flowport.modality import PixelCloud
from flowport.network import MLP, PatchUNet, SetTransformer
from flowport.randomness import Randomness
from flowport.training.callback import ProgressBar, StepLogger
from flowport.training.compose import compose
from flowport.training.logger import TensorboardLogger as Board

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "item"}
PAIRS = {
    "plane": (lambda: (EightGaussians(), Moons()), MLP),
    "images": (lambda: (Gaussian(event_shape=[1, 16, 16]), MNIST(size=16, crop=4)), PatchUNet),
    "sound": (lambda: (Notes(Flute(), train=10), Notes(Brass(), score=1, train=10)), PatchUNet),
    "clouds": (lambda: (Ellipsoid(), Torus()), SetTransformer),
    "ink": (lambda: (Gaussian(event_shape=[2, 9]), MNIST(modality=PixelCloud(9))), SetTransformer),
}


class Waits(TorchDispatchMode):
    """The operations seen that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for part in arg
        )
        if name in WAITING or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(device: str) -> Iterator[Waits]:
    """Raises at the first wait on CUDA; lists the would-be waits on the CPU."""
    waits = Waits()
    if device == "cpu":
        with waits:
            yield waits
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield waits
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Watch(lightning.Callback):
    """Watches every step from the second on: the first makes what later steps reuse."""

    def __init__(self, device: str) -> None:
        self.device, self.seen = device, list[str]()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0:
            self.open = watched(self.device)
            self.waits = self.open.__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0:
            self.open.__exit__(None, None, None)
            self.seen += self.waits.seen


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return str(request.param)


def test_the_watch_sees_what_it_is_for():
    x = torch.arange(4.0)
    for wait in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 1], lambda: bool((x > 1).any())):
        with watched("cpu") as waits:
            wait()
        assert waits.seen


@pytest.mark.parametrize("kind", PAIRS)
def test_a_training_step_waits_for_nothing(kind, device, tmp_path):
    make, network = PAIRS[kind]
    # torch's Adam reads its own step counter, which lies on the CPU on every device
    flow, data = compose(*make(), coupling=IndependentCoupling(), network=network, optimizer=torch.optim.SGD)
    data.batch = data.train.batch = 4
    watch = Watch(device)
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator=device,
        devices=1,
        callbacks=[StepLogger(), ProgressBar(), watch],
        logger=Board(tmp_path),  # which writes every 50 steps
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(flow, data)
    assert watch.seen == []


@pytest.mark.parametrize("kind", PAIRS)
def test_drawing_a_batch_waits_for_nothing(kind, device):
    source, target = PAIRS[kind][0]()
    stream = PairStream(UnpairedPairing(source, target).to(device), IndependentCoupling(), Randomness(0), 4, block=1)
    stream.at(0)
    with watched(device) as waits:
        stream.at(1)
    assert waits.seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["plane", "images"])
def test_an_exact_coupling_waits_for_the_copy_of_its_cost_alone(kind, recwarn):
    """That wait is for an event, which torch's watch may not count."""
    source, target = PAIRS[kind][0]()
    coupling: Coupling = ExactCoupling()
    stream = PairStream(UnpairedPairing(source, target).to("cuda"), coupling, Randomness(0), 64, block=1)
    stream.at(0)
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        stream.at(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in recwarn if "synchronizing" in str(w.message)]) <= 1
