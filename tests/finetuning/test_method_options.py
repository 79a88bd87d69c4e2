"""Options of fine-tuning methods: a wrong one is named, and the law that is stated is that of the options."""

from typing import Any

import pytest

from flowport.errors import FlowportError
from flowport.finetuning import method
from flowport.finetuning.method import AdjointMatching, PolicyGradient
from flowport.run.config_checks import check_values
from tests.test_configs import composed

WRONG: dict[str, tuple[type, dict[str, Any]]] = {
    "adjoint_matching": (AdjointMatching, {"early": -1, "clip": 0, "gradient_clip": 0, "steps_per_rollout": 0}),
    "path_weighted": (method.PathWeighted, {"batch": 0, "replay_size": 0, "paths": 1, "ess": 1.0, "late": 2.0}),
    "value_matching": (method.ValueMatching, {"batch": 0, "steps_per_rollout": 0, "replay_size": 0, "paths": 1}),
    "policy_gradient": (PolicyGradient, {"group": 1, "clip": 0, "kl": -1, "batch": 0, "steps_per_rollout": 0}),
    "reward_weighted": (method.RewardWeighted, {"temperature": 0, "batch": 0, "paths": 1}),
    "tilt_matching": (method.TiltMatching, {"stages": 0, "noisings": 0, "batch": 0, "paths": 1}),
    "diffusion_nft": (method.DiffusionNFT, {"beta": 0, "spread": 0, "kl": -1, "noisings": 0, "paths": 1}),
    "advantage_weighted": (method.AdvantageWeighted, {"clip": 0, "kl": -1, "noisings": 0, "batch": 0, "paths": 1}),
    "draft": (method.DRaFT, {"last": 0, "steps_per_rollout": 0}),
    "refl": (method.ReFL, {"late": 1.5, "weight": 0, "steps_per_rollout": 0}),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, (_, options) in WRONG.items() for key in options])
def test_a_wrong_option_is_named_in_python_and_in_a_config(name: str, key: str) -> None:
    kind, options = WRONG[name]
    with pytest.raises(FlowportError, match=rf"\.{key}={options[key]} (is too (small|large)|must lie)"):
        kind(**{key: options[key]})
    if key != "ess":  # which is between two limits and checked when it is built
        config = composed(f"method={name}", f"method.{key}={options[key]}", "reward=brightness", primary="finetune")
        with pytest.raises(FlowportError, match=rf"method\.{key}={options[key]} is too (small|large)"):
            check_values(config)


def test_the_reward_is_evaluated_before_the_end() -> None:
    with pytest.raises(FlowportError, match=r"method\.late=1 is too large"):
        method.ReFL(late=1.0)


def test_the_law_that_is_stated_is_that_of_the_options() -> None:
    tilt = "the tilt p e^{λr}"
    assert AdjointMatching().target == f"{tilt}: marginal from noise, per start on a bridge that sees it"
    assert "bias of terms that are cut at clip · λ² = 1.6 λ²" in AdjointMatching(clip=1.6).target
    plain = {"clip": None}
    assert PolicyGradient(**plain).target == tilt and PolicyGradient(**plain, kl=0.5).target == "p e^{λr/0.5}"
    assert PolicyGradient(kl=0).target.startswith("none")
    assert PolicyGradient().target.endswith("(here clip=0.2)")
    assert "(here clip=0.2, normalise=true, published=true)" in PolicyGradient(normalise=True, published=True).target
