"""The atlas: which pairs count, how often, whether intervals over domains hold, and the page that says it."""

import math
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from flowport.evaluation.atlas import (
    FOUND,
    Translation,
    difference,
    found_by,
    mid_ranks,
    over_domains,
    pair_weights,
    predicted_by,
    told_by_name,
    translations,
    weighted_correlation,
    weighted_mean,
)
from flowport.evaluation.atlas_page import atlas_blocks
from flowport.evaluation.learnt import has_learnt
from flowport.evaluation.sweep_table import Job

NONE = Path("no picture")


def ordered(domains):
    return [(a, b) for a in domains for b in domains if a != b]


def numbers(rank, **more):
    learnt = {"test/energy": 0.1, "test/energy_floor": 0.1, "test/energy_untranslated": 1.0}
    return {FOUND: rank, f"{FOUND}_untranslated": 0.4, **learnt, **more}


def test_a_pair_counts_as_often_as_both_of_its_domains_were_drawn():
    pairs = ordered("abc")
    weights = pair_weights(pairs, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(weights[:, pairs.index(("a", "b"))], weights[:, pairs.index(("b", "a"))])
    # counts (c_a, c_b, c_c) of three draws: all weights are products, 0 where a domain was not drawn
    assert set(weights.unique().tolist()) == {0.0, 1.0, 2.0}
    # multinomial counts have E c_a c_b = n(n − 1)/n² = 2/3
    assert float(weights.mean()) == pytest.approx(2 / 3, abs=0.01)


def test_intervals_over_domains_hold_where_those_over_pairs_do_not():
    """Values u_a + v_b of nine domains: the error of the mean is that of nine draws, not of 72."""
    draw, pairs = torch.Generator().manual_seed(1), ordered(range(9))
    at, named = torch.tensor(pairs), [(str(a), str(b)) for a, b in pairs]
    even = torch.multinomial(torch.ones(400, len(pairs)), len(pairs), replacement=True, generator=draw)
    over, covered = torch.tensor([0.025, 0.975], dtype=torch.float64), {"domains": 0, "pairs": 0}
    for _ in range(300):
        u, v = torch.randn(2, 9, generator=draw, dtype=torch.float64)
        values = u[at[:, 0]] + v[at[:, 1]]
        found = over_domains(named, lambda w, values=values: weighted_mean(w, values), draws=400)
        covered["domains"] += found.low <= 0 <= found.high
        low, high = torch.quantile(values[even].mean(1), over).tolist()
        covered["pairs"] += low <= 0 <= high
    assert covered["domains"] > 0.83 * 300, covered
    assert covered["pairs"] < 0.6 * 300, covered


def test_weighted_correlation_is_spearmans_and_equal_weights_change_nothing():
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 12, generator=draw, dtype=torch.float64)
    want = torch.corrcoef(torch.stack([mid_ranks(x), mid_ranks(y)]))[0, 1]
    found = weighted_correlation(torch.tensor([[1.0] * 12, [7.0] * 12], dtype=torch.float64), x, y)
    torch.testing.assert_close(found, want.expand(2))
    assert mid_ranks(torch.tensor([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    torch.testing.assert_close(
        weighted_correlation(torch.ones(1, 12, dtype=torch.float64), x, x.exp()), torch.ones(1, dtype=torch.float64)
    )


def test_few_domains_have_no_interval():
    found = over_domains(ordered("abc"), lambda w: weighted_mean(w, torch.arange(6.0, dtype=torch.float64)))
    assert found.value == 2.5 and math.isnan(found.low) and not found.differs()
    assert "too few domains" in str(found)


@pytest.mark.parametrize(
    ("energy", "learnt"),
    [(0.10, True), (0.109, True), (0.32, True), (0.33, False), (1.0, False)],
)
def test_a_flow_has_learnt_where_a_quarter_of_the_way_to_the_floor_is_left(energy, learnt):
    assert has_learnt({"test/energy": energy, "test/energy_floor": 0.1, "test/energy_untranslated": 1.0}) is learnt


def test_domains_that_are_equal_before_are_learnt_near_the_floor_alone():
    equal = {"test/energy_floor": 0.1, "test/energy_untranslated": 0.1}
    assert has_learnt(equal | {"test/energy": 0.105}) and not has_learnt(equal | {"test/energy": 0.12})


def job(source, target, coupling, seed, rank, **more):
    settings = {"pair.source": source, "pair.target": target, "source.face": source, "coupling": coupling}
    return Job(settings | {"seed": str(seed), "distribution@source": "glyphs"}, numbers(rank, **more), NONE)


def test_seeds_are_averaged_and_words_of_the_domains_are_no_setting():
    jobs = [job("a", "b", coupling, seed, 0.1 * seed) for coupling in ("exact", "independent") for seed in (1, 3)]
    found = translations(jobs)
    assert [(t.source, t.target, t.setting, t.seeds) for t in found] == [
        ("a", "b", "coupling exact", 2),
        ("a", "b", "coupling independent", 2),
    ]
    assert found[0].numbers[FOUND] == pytest.approx(0.2)
    assert list(told_by_name(jobs[0]).settings) == ["pair.source", "pair.target", "coupling", "seed"]
    assert translations([Job({"seed": "0"}, {FOUND: 0.1}, NONE)]) == []


def atlas(domains="abcdef", better=0.2):
    """An atlas whose ranks rise with the domains' distance, and whose second setting is worse by ``better``."""
    jobs = []
    for a, b in ordered(domains):
        gap = abs(ord(a) - ord(b)) / 10
        jobs += [job(a, b, "exact", 0, gap, **{"test/domain_w2_relative": gap, "test/domain_gw_relative": 1.0})]
        jobs += [job(a, b, "independent", 0, gap + better, **{"test/domain_w2_relative": gap})]
    return translations(jobs)


def test_what_predicts_the_rank_and_which_setting_is_better_are_found():
    found = atlas()
    exact, other = ([t for t in found if word in t.setting] for word in ("exact", "independent"))
    w2 = predicted_by(exact, "W2")
    assert w2 is not None and w2.value == pytest.approx(1) and w2.differs()
    assert predicted_by(exact, "Gromov–Wasserstein") is None  # the same in all pairs
    gap = difference(exact, other)
    assert gap is not None and gap.value == pytest.approx(-0.2) == gap.high and gap.differs()
    assert difference(exact, []) is None
    assert found_by(exact).low < found_by(exact).value < found_by(exact).high


def test_the_page_says_the_answer_and_how_many_were_left_out(tmp_path):
    found = atlas()
    bad = found[0]
    lost = Translation(bad.source, bad.target, bad.setting, {**bad.numbers, "test/energy": 0.9}, 1)
    blind = replace(found[1], numbers={k: v for k, v in found[1].numbers.items() if k != "test/energy_floor"})
    blocks = atlas_blocks([lost, blind, *found[2:]], tmp_path)
    text = (tmp_path / "atlas.md").read_text()
    assert "Of 1 flows no distance with a floor is known: they count as learnt." in text
    assert "coupling exact finds the partner better than coupling independent" in text
    assert "1 of 30 pairs are left out, whose flows did not learn their target" in text
    assert "the rank of the partner is predicted by W2 (1.000" in text
    table = pandas.read_csv(tmp_path / "atlas.csv")
    assert len(table) == 60 and table[FOUND].dtype == float and int((~table["learnt"]).sum()) == 1
    assert sum(block.kind == "picture" for block in blocks) == 2
    assert all(block.picture.stat().st_size > 5000 for block in blocks if block.picture is not None)


def test_an_atlas_without_a_learnt_flow_says_so(tmp_path):
    lost = [Translation(t.source, t.target, t.setting, {**t.numbers, "test/energy": 0.9}, 1) for t in atlas("abcd")]
    atlas_blocks(lost, tmp_path)
    text = (tmp_path / "atlas.md").read_text()
    assert "12 of 12 pairs are left out" in text and "have learnt no pair in common" in text


def test_names_of_domains_are_no_markup(tmp_path):
    jobs = [job(a, b, "exact", 0, 0.1) for a, b in ordered(("<b>", "=1+1"))]
    blocks = atlas_blocks(translations(jobs), tmp_path)
    assert "one setting: too few pairs to say what predicts" in (tmp_path / "atlas.md").read_text()
    assert "<b>" not in "".join(block.html() for block in blocks if block.kind == "table").replace("<b>0", "")
    assert not any(line.startswith("=") for line in (tmp_path / "atlas.csv").read_text().splitlines())
