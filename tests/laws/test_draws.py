"""What an evaluation draws is drawn on the CPU, so that it is the same on every device.

On a machine with one device no run can show it, so the sources are read: numbers are drawn where their generator is,
and the generators of evaluation name no device.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flowport.randomness import Randomness
from tests.zoo import DISTRIBUTIONS

SOURCES = Path(__file__).parents[2] / "src" / "flowport"
DRAWING = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "empty", "rand_like", "randn_like"}
EVALUATION = ("evaluation", "metric", "sampling", "api", "run")
ANYWHERE = (
    *EVALUATION,
    "distribution",
    "modality",
    "finetuning/adjoint.py",
    "finetuning/certificate.py",
    "finetuning/paired_chains.py",
)
"""What draws from generators of the training, on its device, and from those of an evaluation, on the CPU."""
GENERATORS = ("generator.device", "place", "device")
"""How the device of a generator is called: itself, and as the laws in two dimensions and the solids name it."""
OF_TRAINING = {"module.randomness.generator('residual reward', 0, base.device)"}
"""Generators of a training within a command."""


def calls(*places: str) -> Iterator[tuple[str, ast.Call]]:
    for place in places:
        files = [SOURCES / place] if place.endswith(".py") else sorted((SOURCES / place).rglob("*.py"))
        assert files
        for path in files:
            nodes = ast.walk(ast.parse(path.read_text()))
            yield from ((path.name, node) for node in nodes if isinstance(node, ast.Call))


def on_a_device(call: ast.Call) -> bool:
    """Whether a call makes a generator of a device."""
    name = ast.unparse(call.func)
    named = any(k.arg == "device" for k in call.keywords)
    if name == "torch.Generator":
        return bool(call.args) or named
    return name.endswith(".generator") and (len(call.args) > 2 or named)


def elsewhere(call: ast.Call) -> bool:
    """Whether a call draws from a generator on a device that may be another than the generator's."""
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    name = ast.unparse(call.func).removeprefix("torch.")
    if "generator" not in given or name not in DRAWING:
        return False
    return name.endswith("_like") or given.get("device", "generator.device") not in (
        "generator.device",
        "place",
        "device",
    )


def test_generators_of_evaluation_are_of_the_cpu() -> None:
    found = {ast.unparse(call): name for name, call in calls(*EVALUATION) if on_a_device(call)}
    assert set(found) == OF_TRAINING, found


def test_numbers_are_drawn_where_their_generator_is() -> None:
    assert {f"{name}: {ast.unparse(call)}" for name, call in calls(*ANYWHERE) if elsewhere(call)} == set()


@pytest.mark.parametrize(
    ("text", "of_a_device"),
    [
        ("torch.Generator(x.device)", True),
        ("torch.Generator(device=place)", True),
        ("randomness.generator('noise', 0, x.device)", True),
        ("self.draws.generator('noise', device=x.device)", True),
        ("torch.Generator().manual_seed(0)", False),
        ("randomness.generator('noise', step)", False),
    ],
)
def test_the_reader_sees_generators(text: str, of_a_device: bool) -> None:
    assert any(on_a_device(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)) == of_a_device


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("torch.randn(x.shape, generator=generator, device=x.device)", True),
        ("torch.rand_like(x, generator=generator)", True),
        ("torch.randn(3, generator=generator, device=generator.device)", False),
        ("torch.randperm(3, generator=generator)", False),
        ("torch.zeros(3, device=x.device)", False),
    ],
)
def test_the_reader_sees_draws(text: str, wrong: bool) -> None:
    assert elsewhere(next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call))) == wrong


# "meta" stands for another device; a mixture reads its weights from there, which only a real device can give.
LAWS = [(name, make) for name, make in DISTRIBUTIONS if name not in ("mixture", "eight_gaussians")]
READ = ("squares", "bounds")
"""Constants of a law that follow the generator."""


@pytest.mark.parametrize(("name", "make"), LAWS, ids=[name for name, _ in LAWS])
def test_laws_draw_from_a_generator_of_the_cpu_on_any_device(name: str, make) -> None:
    law = make()
    if law.size is not None:
        pytest.skip("stored items are not drawn")
    there = law.to("meta")
    vars(there).update({name: value for name, value in vars(law).items() if name in READ})
    for points in (there.every(5, Randomness(0)), there.sample(5, torch.Generator())):
        assert points.x.device.type == "meta" and (points.label is None or points.label.device.type == "meta")
    here = law.every(5, Randomness(3))
    assert torch.equal(here.x, law.sample(5, Randomness(3).generator("every")).x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("name", "make"), DISTRIBUTIONS, ids=[name for name, _ in DISTRIBUTIONS])
def test_every_point_of_an_evaluation_is_the_same_on_cuda(name: str, make) -> None:
    law = make()
    here, there = (law.to(device).every(64, Randomness(3)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=1e-5, atol=1e-5)
    assert here.label is None or torch.allclose(there.label.cpu(), here.label)
