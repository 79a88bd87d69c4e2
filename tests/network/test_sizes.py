"""Real sizes: what the experiments use is accepted, and the patch U-Net stays as small as it says."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from flowport.network import DiT, Network, PatchUNet
from flowport.types import Condition, ConditionShape

SHAPES = {"set_transformer": (3, 20)}
CONFIGS = Path(__file__).parents[2] / "configs" / "network"


def test_patch_unet_has_nine_tenths_of_a_million_parameters() -> None:
    count = sum(p.numel() for p in PatchUNet((1, 16, 16), ConditionShape()).parameters())
    assert 850_000 < count < 950_000


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (1, 64, 32), (2, 4, 12)])
def test_patch_unet_takes_every_size_that_four_divides(shape: tuple[int, int, int]) -> None:
    y = PatchUNet(shape, ConditionShape(), 2)(torch.randn(2, *shape), torch.rand(2), Condition())
    assert y.shape == (2, 2 * shape[0], *shape[1:])


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.stem)
def test_yaml_builds_a_network_once_the_builder_adds_the_shapes(file: Path) -> None:
    shape = SHAPES.get(file.stem, (1, 16, 16))
    net = instantiate(OmegaConf.load(file))(event_shape=shape, condition=ConditionShape(classes=10), heads=2)
    assert isinstance(net, Network)
    y = net(torch.randn(3, *shape), torch.rand(3), Condition(torch.tensor([1, -1, 9])))
    assert y.shape == (3, 2 * shape[0], *shape[1:])


def test_yaml_options_are_the_defaults_of_the_class() -> None:
    for file in CONFIGS.glob("*.yaml"):
        shapes = {"event_shape": SHAPES.get(file.stem, (1, 16, 16)), "condition": ConditionShape()}
        from_yaml = instantiate(OmegaConf.load(file))
        assert str(from_yaml(**shapes)) == str(from_yaml.func(**shapes)), file


def test_a_few_steps_lower_the_loss_of_the_patch_unet() -> None:
    torch.manual_seed(0)
    net = PatchUNet((1, 8, 8), ConditionShape(classes=2), width=16)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    label, x, t = torch.arange(16) % 2, torch.randn(16, 1, 8, 8), torch.rand(16)
    wanted = x * (2.0 * label - 1).view(-1, 1, 1, 1)  # the label alone decides the sign
    losses = []
    for _ in range(60):
        loss = (net(x, t, Condition(label)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.3


def test_dit_puts_every_patch_back_where_it_was() -> None:
    """At the start all gates are closed, so a pixel can only change the output inside its own patch."""
    net = DiT((2, 8, 6), ConditionShape(), 2, patch=[4, 2], width=16)
    torch.nn.init.normal_(net.out.weight)
    x, t = torch.randn(1, 2, 8, 6), torch.rand(1)
    other = x.clone()
    other[0, 0, 5, 2] += 1
    change = (net(other, t, Condition()) - net(x, t, Condition()))[0].abs()
    assert change[:, 4:, 2:4].min() > 0
    change[:, 4:, 2:4] = 0
    assert change.max() < 1e-5


def test_dit_patches_are_upright() -> None:
    """Row (channel, i, j) of the last layer is pixel (i, j) of every patch."""
    net = DiT((2, 8, 6), ConditionShape(), patch=[4, 2], width=16)
    with torch.no_grad():
        net.out.bias.copy_(torch.arange(16.0))
    y = net(torch.randn(1, 2, 8, 6), torch.rand(1), Condition())[0]
    assert torch.equal(y, torch.arange(16.0).view(2, 4, 2).repeat(1, 2, 3))


def test_every_block_of_the_patch_unet_has_its_own_modulation() -> None:
    net = PatchUNet((1, 8, 8), ConditionShape(), width=8)
    for parameter in net.parameters():
        if parameter.eq(0).all():
            torch.nn.init.normal_(parameter, std=0.3)
    net(torch.randn(4, 1, 8, 8), torch.rand(4), Condition()).square().sum().backward()
    assert net.film.weight.grad is not None
    assert net.film.weight.grad.abs().amax(1).min() > 0
