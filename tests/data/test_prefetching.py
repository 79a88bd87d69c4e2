"""Batches that a background thread prepares: in order, with its errors, and without holding up the end."""

import subprocess
import sys
import time

import pytest
import torch

from flowport.coupling import ExactCoupling, IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.data.prefetching import Batches
from flowport.data.stream import PairStream
from flowport.distribution import MNIST, EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.modality import Image
from flowport.randomness import Randomness

LAW = UnpairedPairing(EightGaussians(), Moons())
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_an_error_of_the_thread_is_raised_at_its_step():
    stream = PairStream(LAW, IndependentCoupling(), Randomness(0), 4)

    def at(step):
        if step == 5:
            raise FlowportError("step five")
        return stream.at(step)

    batches = iter(Batches(at, lambda: 2, 4))
    for _ in range(3):
        next(batches)
    with pytest.raises(FlowportError, match="step five"):
        next(batches)


def test_batches_are_prepared_while_a_step_runs():
    seen = []
    batches = iter(Batches(lambda k: seen.append(k) or LAW.pairs(0, 2, Randomness(0)), lambda: 0, 3))
    next(batches)
    deadline = time.monotonic() + 10
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    batches.close()
    assert seen == [0, 1, 2, 3]


def test_a_process_ends_though_its_batches_are_still_open():
    program = (
        "from tests.data.test_prefetching import *\n"
        "batches = iter(Batches(PairStream(LAW, ExactCoupling(), Randomness(0), 64).at, lambda: 0, 4))\n"
        "next(batches)\n"
        "raise KeyboardInterrupt"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in ended.stderr and ended.returncode != 0


def ahead(prefetch, device):
    data = PairDataModule(LAW, IndependentCoupling(), Randomness(0), 4, prefetch=prefetch)
    data.train.pairing.source.device = torch.device(device)
    data._first_step = lambda: 0
    return data.train_dataloader().dataset.ahead


def test_prefetching_is_chosen_by_the_device():
    assert [ahead("auto", "cpu"), ahead("auto", "cuda"), ahead(0, "cuda"), ahead(3, "cpu")] == [0, 2, 0, 3]


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("coupling", [IndependentCoupling(), ExactCoupling()])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_thread_with_a_stream_of_its_own_makes_the_same_batches(coupling, pool):
    pairing = UnpairedPairing(Gaussian(event_shape=[1, 16, 16]), MNIST(modality=Image(shift=1.0), size=16)).to("cuda")

    def stream():
        return PairStream(pairing, coupling, Randomness(0), 64, pool)

    plain = stream()
    assert plain.block == 32
    work = torch.randn(4096, 4096, device="cuda")
    batches = iter(Batches(stream().at, lambda: 0, 2, 1, "cuda"))
    for k in range(70):
        pair = next(batches)
        for _ in range(3):  # steps that are queued while later batches are made
            work = work @ work / 64
        kept = pair.target.x.clone()
        torch.testing.assert_close(kept, plain.at(k).target.x, rtol=0, atol=0)
    batches.close()
