"""The choices of a config, by which TensorBoard compares runs."""

from omegaconf import OmegaConf

from flowport.run.choices import choices
from tests import runs


def test_choices_are_plain_values_named_as_on_the_command_line() -> None:
    found = choices(runs.configured("coupling=sinkhorn", "coupling.epsilon=0.3", "network.width=17", "seed=5"))
    assert found["source"] == "EightGaussians" and found["coupling"] == "SinkhornCoupling"
    assert found["coupling.cost"] == "SquaredEuclideanCost" and found["coupling.epsilon"] == 0.3
    assert found["network.width"] == 17 and found["trainer.max_steps"] == 20 and found["seed"] == 5
    assert found["metric"] == "wasserstein"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())
    assert not [name for name in found if "_target_" in name or name.startswith(("stage", "threads", "run"))]


def test_a_tuned_run_has_the_choices_of_every_tuning() -> None:
    reward = {"_target_": "flowport.reward.LinearReward", "scale": 2.0}
    entry = {"reward": reward, "strength": 3.0, "base": {"run": "/x"}}
    found = choices(OmegaConf.merge(OmegaConf.to_container(runs.configured()), {"tuning": [entry]}))
    assert found["tuning.1.reward"] == "LinearReward" and found["tuning.1.strength"] == 3.0
    assert not [name for name in found if "base" in name]
