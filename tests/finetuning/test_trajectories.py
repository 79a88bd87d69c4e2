"""Trajectories of a collection in less precision or on the host: what is kept, and what is never changed."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.finetuning.method import Rollout
from flowport.finetuning.trajectories import Trajectories

CPU = torch.device("cpu")


def rollout():
    """Three paths of points (2, 2) in four steps."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 2, 2, generator=g)
    record = {"times": torch.rand(4), "states": x, "adjoints": 10 * x, "state": x[0], "log_prob": torch.rand(4, 3)}
    return Rollout(x[0], x[-1], torch.rand(3), torch.rand(3), None, record)


STEP, ROW = torch.tensor([0, 3, 2, 2]), torch.tensor([2, 0, 1, 1])


def test_without_options_a_collection_is_kept_as_it_is():
    made = rollout()
    kept = Trajectories().stored(made, CPU)
    assert kept.tensors().keys() == made.tensors().keys()
    assert all(kept.tensors()[name] is value for name, value in made.tensors().items())
    assert torch.equal(kept.at("states", STEP, ROW), made["states"][STEP, ROW])
    assert Trajectories().sentence() is None


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_states_and_adjoints_are_rounded_and_nothing_else(dtype, digits):
    made, storage = rollout(), Trajectories(dtype=dtype, device="cpu")
    kept = storage.stored(made, CPU)
    changed = {name for name, value in kept.tensors().items() if value.dtype != made.tensors()[name].dtype}
    assert changed == {"states", "adjoints"}
    assert all(torch.equal(v, made.tensors()[k]) for k, v in kept.tensors().items() if k not in changed)
    for name in changed:
        read, exact = kept.at(name, STEP, ROW), made[name][STEP, ROW]
        assert read.dtype == torch.float32 and read.device == CPU
        error = ((read - exact) / exact).abs().max()
        assert 0 < error <= 2.0**-digits
    assert dtype in str(storage.sentence())
    again = storage.stored(Rollout.of(kept.tensors()), CPU)  # as a checkpoint gives it back
    assert all(torch.equal(a, b) for a, b in zip(again.tensors().values(), kept.tensors().values(), strict=True))


def test_float16_refuses_what_it_does_not_hold():
    made = rollout()
    made["adjoints"].mul_(1e5)
    with pytest.raises(FlowportError, match=r"trajectories.dtype=float16 does not hold.*write bfloat16"):
        Trajectories(dtype="float16").stored(made, CPU)


def test_other_words_are_refused():
    for options in ({"dtype": "int8"}, {"device": "cuda"}):
        with pytest.raises((FlowportError, TypeError), match=next(iter(options.values()))):
            Trajectories(**options)
