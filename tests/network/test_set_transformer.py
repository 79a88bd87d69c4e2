"""The set transformer forgets the order of points, and nothing else."""

import pytest
import torch

from flowport.errors import Refusal
from flowport.network import SetTransformer
from flowport.shapes import Condition, ConditionShape


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize(("d", "induced"), [(2, None), (3, None), (3, 5)])
def test_it_is_permutation_equivariant(d, sees, induced):
    torch.manual_seed(0)
    network = SetTransformer((d, 30), ConditionShape(source=sees), heads=2, induced=induced).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, start = torch.randn(2, 4, d, 30, dtype=torch.float64).unbind(0)
    t, order = torch.rand(4, dtype=torch.float64), torch.randperm(30)
    condition = Condition(source=start if sees else None)
    moved = Condition(source=start[:, :, order] if sees else None)
    out = network(x, t, condition)
    assert out.shape == (4, 2 * d, 30) and float(out.std()) > 0.01
    torch.testing.assert_close(network(x[:, :, order], t, moved), out[:, :, order], atol=1e-10, rtol=1e-10)
    assert not torch.allclose(network(x, t / 2, condition), out)
    far = x.clone()
    far[:, :, 0] += 3
    assert not torch.allclose(network(far, t, condition)[:, :, 1:], out[:, :, 1:]), "points do not see each other"
    twice = Condition(source=torch.cat([start, start], 2) if sees else None)
    again = network(torch.cat([x, x], 2), t, twice)
    torch.testing.assert_close(again, torch.cat([out, out], 2), atol=1e-10, rtol=1e-10)  # attention is a mean


def test_it_is_for_clouds():
    with pytest.raises(Refusal, match="works on clouds"):
        SetTransformer((1, 8, 8), ConditionShape())
    with pytest.raises(Refusal, match="induced of at least 1"):
        SetTransformer((3, 8), ConditionShape(), induced=0)
