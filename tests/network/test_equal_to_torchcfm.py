"""MLP and UNet against the torchcfm networks that they stand for."""

import builtins

import pytest
import torch

from flowport.errors import FlowportError
from flowport.network import MLP, UNet
from flowport.types import Condition, ConditionShape

models = pytest.importorskip("torchcfm.models")
unets = pytest.importorskip("torchcfm.models.unet.unet")


def test_default_mlp_is_torchcfms() -> None:
    ours, theirs = MLP((2,), ConditionShape()), models.MLP(dim=2, time_varying=True, w=64)
    mine, other = list(ours.state_dict().values()), list(theirs.state_dict().values())
    assert [v.shape for v in mine] == [v.shape for v in other]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        b.data.copy_(a.data)
    x, t = torch.randn(7, 2), torch.rand(7)
    torch.testing.assert_close(ours(x, t, Condition()), theirs(torch.cat([x, t[:, None]], -1)), rtol=0, atol=0)


@pytest.mark.parametrize("time_scale", [1.0, 1000.0])
def test_unet_is_torchcfms_called_its_own_way(time_scale: float) -> None:
    shape = ConditionShape(classes=3, source=True)
    ours = UNet((1, 8, 8), shape, 2, attention=[4], attention_heads=2, time_scale=time_scale)
    theirs = unets.UNetModel(
        image_size=8,
        in_channels=2,
        model_channels=32,
        out_channels=2,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 2),
        num_heads=2,
        num_classes=4,
    )
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.1)
    theirs.load_state_dict(ours.net.state_dict())
    x, x0, t, label = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([2, -1, 0, 1])
    expected = theirs(t * time_scale, torch.cat([x, x0], 1), torch.tensor([3, 0, 1, 2]))
    assert expected.std() > 0
    torch.testing.assert_close(ours(x, t, Condition(label, x0)), expected, rtol=0, atol=0)


def test_without_torchcfm_the_unet_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("torchcfm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FlowportError, match="pip install --no-deps torchcfm"):
        UNet((1, 8, 8), ConditionShape(), attention=[4])
