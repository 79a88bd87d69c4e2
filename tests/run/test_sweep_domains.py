"""Ordered pairs of domains: what is combined, how values are written, and what is refused."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from flowport.errors import FlowportError
from flowport.run.sweep_domains import pair_words, written

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def domain(**options):
    return {"distribution": "glyphs", **options}


def test_every_ordered_pair_within_a_group_is_named_once():
    groups = {"letters": {"a": domain(), "b": domain(), "c": domain()}, "other": {"d": domain(), "e": domain()}}
    found = [dict(word.split("=", 1) for word in words) for words in pair_words(groups)]
    names = [(words["pair.source"], words["pair.target"]) for words in found]
    want = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b"), ("d", "e"), ("e", "d")]
    assert names == want
    assert pair_words(None) == [[]]


def test_options_go_to_the_side_of_their_domain():
    a, b = domain(face="sans", modality={"shift": 0.5}), domain(face="serif", common=["sans", "stix"])
    assert pair_words({"letters": {"a": a, "b": b}})[0] == [
        *("pair.source=a", "distribution@source=glyphs", "source.face=sans", "source.modality.shift=0.5"),
        *("pair.target=b", "distribution@target=glyphs", "target.face=serif", "target.common=[sans,stix]"),
    ]


def test_a_domain_or_a_group_that_is_null_is_left_out():
    groups = {"letters": {"a": domain(), "b": domain(), "c": None}, "other": None}
    assert [words[0] for words in pair_words(groups)] == ["pair.source=a", "pair.source=b"]


VALUES = [
    True,
    None,
    3,
    -0.5,
    1e-12,
    "sans",
    "null",
    "true",
    "/my icons/it's=1,2",
    "a\\'b",
    "back\\",
    "",
    "1.5",
    "ü [x]",
]


@pytest.mark.parametrize("value", [*VALUES, [1, "a b", None], []])
def test_a_value_is_read_as_it_was(value):
    override = OverridesParser.create().parse_override(f"key={written(value)}")
    assert OmegaConf.to_container(OmegaConf.create({"key": override.value()}))["key"] == value


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"letters": {"a": domain()}}, "letters needs two domains or more"),
        ({"letters": "a,b"}, "letters needs two domains or more"),
        ({"letters": {"a": domain(), "b": {"face": "sans"}}}, "letters.b names no distribution"),
        ({"x": {"a": domain(), "b": domain()}, "y": {"a": domain(), "c": domain()}}, "has a in two groups"),
    ],
)
def test_what_is_no_set_of_domains_is_refused(groups, sentence):
    with pytest.raises(FlowportError, match=sentence):
        pair_words(groups)


def test_the_atlas_has_thirty_pairs_or_more_and_each_of_them_composes():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        whole = compose("train", ["sweep=atlas"], return_hydra_config=True)
        pairs = pair_words(OmegaConf.to_container(whole.hydra.sweeper.domains))
        assert len(pairs) >= 30
        for words in (pairs[0], *pairs[-6:]):
            job = compose("train", [*words, "coupling=exact", "sweep=atlas"])
            told = dict(word.split("=", 1) for word in words)
            assert (job.pair.source, job.pair.target) == (told["pair.source"], told["pair.target"])
            assert job.gallery is False and job.network._target_.endswith("PatchUNet")
