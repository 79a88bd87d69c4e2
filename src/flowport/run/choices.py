"""The choices of a config as plain values, which runs are compared by."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

LEFT_OUT = (
    "stage",
    "run",
    "threads",
    "checkpoint_every",
    "checkpoint_minutes",
    "hydra",
    "optimise",
    "base",
    "jobs",
    "restart",
    "gallery",
    "logger",
)
"""Keys that change no result, or name places."""
OF_TRAINER = ("max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")
"""Options of the trainer that change the result."""


def choices(config: DictConfig) -> dict[str, bool | int | float | str]:
    """The parts of a config by their class, and their options, for instance ``coupling`` and ``optimizer.lr``.

    Args:
        config: A composed config.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain["trainer"] = {key: plain["trainer"].get(key) for key in OF_TRAINER}
    plain["metric"] = ", ".join(plain.get("metric") or {})
    plain["tuning"] = dict(enumerate(plain.get("tuning") or [], 1))
    return _flat(plain, "")


def _flat(node: Any, name: str) -> dict[str, bool | int | float | str]:
    if not isinstance(node, dict):
        value = str(node) if isinstance(node, list) else node
        return {} if value is None or value == "" else {name: value}
    found: dict[str, bool | int | float | str] = {}
    if "_target_" in node:
        found[name] = str(node["_target_"]).rpartition(".")[2]
    for key, value in node.items():
        if not str(key).startswith("_") and key not in LEFT_OUT:
            found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found
