"""Estimates from two chains against closed forms: P = N(0, 1), Q = N(μ, 1) and r = c x, so that Π = N(c, 1)."""

import pytest
import torch
from torch import Tensor

from flowport.finetuning.reliability import Reliability
from flowport.finetuning.two_sided import Stated, TwoSided

C, SEEDS, N = 0.7, 300, 400
F64 = torch.float64


def sides(mu: float, groups: int = 1, clustered: bool = False, level: float = 0.0, n: int = N, seeds: int = SEEDS):
    """Certificates of many seeds; r of a group has a constant of its own, level × N(0, 1), which no KL may notice."""
    generator = torch.Generator().manual_seed(int(1000 * mu) + groups)
    x = torch.randn(seeds, 2, n, generator=generator, dtype=F64)
    x[:, 0] += mu
    if clustered:
        group = torch.arange(groups).repeat_interleave(n // groups).expand(seeds, n)
    else:
        group = torch.randint(groups, (seeds, n), generator=generator)
    constant = level * torch.randn(seeds, groups, generator=generator, dtype=F64)
    offset = constant.gather(1, group)
    return x, TwoSided(C * x + offset[:, None], mu * x - mu**2 / 2, group, groups, clustered)


def agrees(stated: Stated, truth: float | Tensor, room: float = 0.2) -> None:
    """No bias beyond an eighth of an error, and errors of the size of the spread."""
    z = (stated.value - truth) / stated.error
    assert abs(float(z.mean())) < 4 / SEEDS**0.5 + 0.125, float(z.mean())
    assert 1 - room < float(z.std()) < 1 + room, float(z.std())
    assert float((z.abs() <= 2).double().mean()) > 0.9


@pytest.mark.parametrize("mu", [0.0, 0.35, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["one law", "classes", "starts"])
def test_divergences_and_share(mu: float, kind: str) -> None:
    """At Q = Π the errors need the influence of log Ẑ itself; a dropped class or start would be a divergence."""
    options = {"one law": {}, "classes": {"groups": 5, "level": 2.0}, "starts": {"groups": 25, "clustered": True}}
    _, found = sides(mu, **options[kind])
    agrees(found.kl_to_tilt, (mu - C) ** 2 / 2, 0.25)
    agrees(found.kl_from_tilt, (mu - C) ** 2 / 2, 0.25)
    agrees(found.share, mu / C, 0.25)
    if mu:
        agrees(found.kl_to_base, mu**2 / 2)
    assert float((found.kl_to_base.value - mu**2 / 2).abs().max()) < 0.6
    trusted = Reliability(found)
    for name in ("kl_to_tilt", "kl_from_tilt", "share"):
        assert float(trusted.stands(name, getattr(found, name)).double().mean()) > 0.9


def test_rewards_of_the_three_laws() -> None:
    _, found = sides(0.5)
    agrees(found.reward_of_tuned, C * 0.5)
    assert torch.equal(found.reward_of_tuned.value, found.reward[:, 0].mean(-1))
    agrees(found.reward_of_base, 0.0)
    agrees(found.reward_of_tilt, C * C)
    agrees(found.gain_of_tilt, C * C)


def test_memory_is_the_variance_of_the_starts_constants_alone() -> None:
    """log Z of a start is its constant + c²/2; the noise of log Ẑ is not counted as memory."""
    for level in (0.0, 0.7):
        _, found = sides(0.0, 25, True, level)
        each = found.memory.value
        assert float(each.mean()) == pytest.approx(level**2, abs=4 * float(each.std()) / SEEDS**0.5 + 0.01)
        noise = float(found.log_z_error.square().mean())
        assert noise > 0.01, "the test would not see that the noise is left in"
    assert float(((each - level**2).abs() <= 2 * found.memory.error).double().mean()) >= 0.85


def test_the_bias_of_few_paths_a_start_is_taken_out() -> None:
    """8 + 8 paths a start: log Ẑ is too small by Var/2, which does not average out over 50 starts."""
    _, found = sides(0.0, 50, True)
    plain = found.log_z.mean(1) - found.reward_of_tuned.value
    assert float(plain.mean()) < C**2 / 2 - 0.01
    agrees(found.kl_to_tilt, C**2 / 2, 0.25)


def test_the_largest_difference_of_a_mean_is_not_one_of_noise() -> None:
    """Of 30 coordinates one differs by (μ − c) deviations, at the tilt none; the largest is not their noise."""
    for mu, truth in ((0.2, 0.5), (0.7, 0.0)):
        x, found = sides(mu, seeds=60)
        rest = torch.randn(60, 2, N, 29, generator=torch.Generator().manual_seed(1), dtype=F64)
        told = [
            TwoSided(r, q, g).mean_gap(torch.cat([y[..., None], z], -1))
            for r, q, g, y, z in zip(found.reward, found.log_ratio, found.group, x, rest, strict=True)
        ]
        value, error = (torch.stack([getattr(t, name) for t in told]) for name in ("value", "error"))
        z = (value - truth) / error
        assert abs(float(z.mean())) < 4 / 60**0.5 and 0.75 < float(z.std()) < 1.3


def test_a_constant_coordinate_is_no_difference() -> None:
    x, found = sides(0.2, seeds=1)
    one = TwoSided(found.reward[0], found.log_ratio[0], found.group[0])
    flat = torch.cat([x[0][..., None], torch.full((2, N, 1), 3.0, dtype=F64)], -1)
    alone, beside = one.mean_gap(x[0][..., None]), one.mean_gap(flat)
    assert float(alone.value) == float(beside.value) > 0.2


@pytest.mark.parametrize("clustered", [False, True])
def test_the_order_of_rows_and_the_level_of_rewards_do_not_matter(clustered: bool) -> None:
    """Rewards of 1e4 more are as good, which e^r alone could not hold."""
    _, found = sides(0.5, 4, clustered, seeds=2, n=40)
    turn = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    other = TwoSided(
        found.reward[..., turn] + 1e4, found.log_ratio[..., turn], found.group[..., turn], found.groups, clustered
    )
    for name in ("kl_to_tilt", "kl_from_tilt", "kl_to_base", "share"):
        for part in ("value", "error"):
            torch.testing.assert_close(
                getattr(getattr(found, name), part), getattr(getattr(other, name), part), rtol=1e-7, atol=1e-9
            )


def test_what_the_weights_cannot_carry_is_withheld_with_its_reason() -> None:
    """A rare mode that a few base paths visit; a tilt without a gain; too few paths, starts and paths of a start."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 512, generator=generator, dtype=F64)
    far = x.clone()
    far[1, :3] += 9.0
    zero = torch.zeros(512, dtype=torch.long)
    rare = TwoSided(1.2 * far, torch.zeros_like(x), zero)
    doubt = Reliability(rare).doubt("kl_to_tilt", rare.kl_to_tilt)
    assert doubt.startswith("unreliable: k̂ ") and doubt.endswith(
        f"{float(rare.effective):.0f} effective samples of 1024"
    )
    assert Reliability(rare).doubt("kl_to_base", rare.kl_to_base) == ""
    flat = TwoSided(1e-3 * x, torch.zeros_like(x), zero)
    assert "no gain to share" in Reliability(flat).doubt("share", flat.share)
    assert Reliability(flat).doubt("kl_to_tilt", flat.kl_to_tilt) == ""
    few = TwoSided(x[:, :40], torch.zeros(2, 40, dtype=F64), zero[:40])
    assert "fewer than 100 weights" in Reliability(few).doubt("share", few.share)
    group = torch.arange(2).repeat_interleave(256)
    two = TwoSided(x, torch.zeros_like(x), group, 2, True)
    reason = "paths from 2 starts, fewer than 16, give no standard error that covers"
    assert Reliability(two).doubt("kl_to_base", two.kl_to_base) == reason
    enough = TwoSided(x, torch.zeros_like(x), torch.arange(16).repeat_interleave(32), 16, True)
    assert Reliability(enough).doubt("kl_to_base", enough.kl_to_base) == ""
    thin = TwoSided(2.5 * x, torch.zeros_like(x), torch.arange(64).repeat_interleave(8), 64, True)
    assert "too few for their own noise" in Reliability(thin).doubt("memory", thin.memory)
