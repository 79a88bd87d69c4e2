"""The set transformer forgets the order of points, and nothing else."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.network import SetTransformer
from flowport.network.dit import DiTBlock
from flowport.network.induced import CrossAttention, InducedAttention
from flowport.types import Condition, ConditionShape


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
    assert out.shape == (4, 2 * d, 30) and float(out.detach().std()) > 0.01
    torch.testing.assert_close(network(x[:, :, order], t, moved), out[:, :, order], atol=1e-10, rtol=1e-10)
    assert not torch.allclose(network(x, t / 2, condition), out)
    far = x.clone()
    far[:, :, 0] += 3
    assert not torch.allclose(network(far, t, condition)[:, :, 1:], out[:, :, 1:]), "points do not see each other"
    twice = Condition(source=torch.cat([start, start], 2) if sees else None)
    again = network(torch.cat([x, x], 2), t, twice)
    torch.testing.assert_close(again, torch.cat([out, out], 2), atol=1e-10, rtol=1e-10)  # attention is a mean


def test_with_its_gates_shut_every_point_is_mapped_alone():
    """out(norm(first(p)) (1 + scale) + shift), p the coordinates, sines and cosines of them, twice and four times."""
    torch.manual_seed(1)
    network = SetTransformer((2, 7), ConditionShape(), width=8, depth=5).double()
    assert sum(isinstance(module, DiTBlock) for module in network.modules()) == 5
    for p in (*network.modulation.parameters(), *network.out.parameters()):
        torch.nn.init.normal_(p)
    x, t = torch.randn(3, 2, 7, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    shift, scale = network.modulation(network.embedding(t, Condition())).split(8, 1)
    for k in range(3):
        for n in range(7):
            at = x[k, :, n]
            features = torch.cat(
                [at, at.sin(), at.cos(), (2 * at).sin(), (2 * at).cos(), (4 * at).sin(), (4 * at).cos()]
            )
            hidden = network.first(features)
            hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(
                network(x, t, Condition())[k, :, n], network.out(hidden * (1 + scale[k]) + shift[k])
            )


def test_a_block_adds_attention_and_then_an_mlp_each_of_modulated_tokens():
    """Six parts of the modulation, in order: shift, scale and gate of attention, then of the MLP."""
    torch.manual_seed(3)
    block, tokens = DiTBlock(4, lambda: torch.nn.Linear(4, 4), 2).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    embedding = torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(block(tokens, embedding), tokens)
    for p in block.modulation.parameters():
        torch.nn.init.normal_(p)
    found, parts = tokens, block.modulation(embedding).unflatten(1, (6, 1, 4)).unbind(1)
    for layer, (shift, scale, gate) in ((block.attention, parts[:3]), (block.mlp, parts[3:])):
        centred = found - found.mean(2, keepdim=True)
        normed = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
        found = found + gate * layer(normed * (1 + scale) + shift)
    torch.testing.assert_close(block(tokens, embedding), found)


def by_hand(attention: CrossAttention, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Every head a slice of the width, with softmax(q kᵀ / √(its width)) v."""
    q, (k, v) = attention.q(x), attention.kv(y).chunk(2, -1)
    heads = [q[..., h] @ k[..., h].mT for h in (slice(0, 3), slice(3, 6))]
    parts = [(s / 3**0.5).softmax(-1) @ v[..., h] for s, h in zip(heads, (slice(0, 3), slice(3, 6)), strict=True)]
    return attention.merge(torch.cat(parts, -1))


def test_induced_attention_gathers_into_its_points_and_spreads_from_them():
    """spread(tokens, I + gather(I, tokens)), the points I beside what they gathered."""
    torch.manual_seed(2)
    attention = InducedAttention(6, 2, 4).double()
    tokens = torch.randn(3, 9, 6, dtype=torch.float64)
    held = attention.induced + by_hand(attention.gather, attention.induced.expand(3, -1, -1), tokens)
    torch.testing.assert_close(attention(tokens), by_hand(attention.spread, tokens, held))


def test_it_is_for_clouds():
    with pytest.raises(FlowportError, match="works on clouds"):
        SetTransformer((1, 8, 8), ConditionShape())
    with pytest.raises(FlowportError, match="induced of at least 1"):
        SetTransformer((3, 8), ConditionShape(), induced=0)
