"""A generator is a pure function of (seed, scope, purpose, rank, step) and of nothing else."""

from itertools import product

import torch

from flowport.randomness import Randomness


def draws(randomness, *key):
    return tuple(torch.rand(4, generator=randomness.generator(*key)).tolist())


def test_same_key_same_numbers_whatever_was_drawn_before():
    first = draws(Randomness(3).under("a"), "noise", 5)
    torch.manual_seed(99)
    draws(Randomness(3).under("a"), "other", 1)
    assert draws(Randomness(3).under("a"), "noise", 5) == first


def test_different_keys_different_numbers():
    keys = product((0, 1), (0, 1), ("", "a", "b"), ("x", "y", "x/1"), (0, 1, 11))
    found = set()
    for count, (seed, rank, scope, purpose, step) in enumerate(keys, 1):
        randomness = Randomness(seed, rank)
        found.add(draws(randomness.under(scope) if scope else randomness, purpose, step))
        assert len(found) == count


def test_scopes_nest_and_parts_do_not_share():
    root = Randomness(1)
    assert root.under("a").under("b").scope == "/a/b"
    assert root.under("source").number("items", 4) != root.under("target").number("items", 4)
    assert Randomness(1).number("p", 12) != Randomness(11).number("p", 2)


def test_numbers_are_seeds():
    numbers = [Randomness(s).number("p", k) for s in range(10) for k in range(20)]
    assert len(set(numbers)) == 200 and all(0 <= n < 2**63 for n in numbers)
    assert max(numbers) > 2**61  # not a few low bits
