"""The options of Lightning's Trainer that a run may set; flowport sets the others itself."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, Range
from flowport.run.config_checks import check_kind
from flowport.run.words import MOVED

OPTIONS: dict[str, tuple[Any, float | None]] = {
    "accelerator": (str, None),
    "accumulate_grad_batches": (int, 1),
    "benchmark": (bool | None, None),
    "detect_anomaly": (bool, None),
    "deterministic": (bool | Literal["warn"] | None, None),
    "devices": (int, 1),
    "enable_model_summary": (bool, None),
    "enable_progress_bar": (bool, None),
    "gradient_clip_algorithm": (Literal["norm", "value"] | None, None),
    "gradient_clip_val": (float | None, 0),
    "inference_mode": (bool, None),
    "limit_val_batches": (float | None, 0),
    "log_every_n_steps": (int, 1),
    "max_steps": (Annotated[int, Range(most=10**12)], 1),
    "num_nodes": (int, 1),
    "num_sanity_val_steps": (int, 0),
    "precision": (str | int | None, None),
    "strategy": (str, None),
    "tf32": (bool, None),
    "val_check_interval": (Annotated[float, Range(above=0)], None),
}
"""Option -> type and least value; ``tf32`` is flowport's own."""

PRECISIONS = ("32-true", "32", "16-mixed", "bf16-mixed")
"""Precisions that keep weights and their moving average in float32."""
HALVES = {"16": "16-mixed", "16-true": "16-mixed", "bf16": "bf16-mixed", "bf16-true": "bf16-mixed"}
"""Precisions that do not, and what to write instead."""
REACHING = ("accelerator", "precision", "tf32", "benchmark", "deterministic", "detect_anomaly", "strategy")
"""Options that say how the machine computes, which a base that is trained first takes from the command's trainer."""

SHARED = ("ddp", "fsdp")
"""Strategies by which several processes train one run; with one process they change nothing."""

SET_HERE = {
    "callbacks": MOVED["trainer.callbacks"],
    "default_root_dir": "use hydra.run.dir",
    "enable_checkpointing": "use checkpoint_every",
    "limit_train_batches": "use trainer.max_steps",
    "logger": MOVED["trainer.logger"],
    "max_epochs": "use trainer.max_steps",
    "min_epochs": "use trainer.max_steps",
    "plugins": "checkpoints are written atomically by flowport's own",
}
"""Option that flowport sets -> what to do instead."""


def check_trainer(options: DictConfig) -> None:
    """Check the options of a trainer, so that none of them is without effect.

    Args:
        options: The node ``trainer`` of a config.

    Raises:
        FlowportError: For an option that flowport sets itself or does not support, and for a value of the wrong kind or
            size.
    """
    for name in options:
        key = str(name)
        if key.startswith("_"):
            continue
        if key in SET_HERE:
            raise FlowportError(f"trainer.{key} would have no effect, because flowport sets it: {SET_HERE[key]}")
        if key not in OPTIONS:
            raise FlowportError(f"trainer.{key} is not supported: trainer takes {', '.join(OPTIONS)}")
        check_kind(f"trainer.{key}", options[key], *OPTIONS[key])
    _check_precision(options.get("precision"))
    _check_processes(options)


def processes_of(options: DictConfig) -> int:
    """Number of processes that train a run.

    Args:
        options: The node ``trainer`` of a config.
    """
    return int(options.get("devices", 1)) * int(options.get("num_nodes", 1))


def refuse_several(options: DictConfig, task: str) -> None:
    """Refuse several processes for a task that has no use for them.

    Args:
        options: The node ``trainer`` of a config.
        task: What is done, for the message.

    Raises:
        FlowportError: For more than one process.
    """
    if processes_of(options) > 1:
        raise FlowportError(
            f"trainer.devices={options.get('devices', 1)} and trainer.num_nodes={options.get('num_nodes', 1)} ask for "
            f"several processes, but {task} works in one: use trainer.devices=1 and trainer.num_nodes=1"
        )


def refuse_split(options: DictConfig, task: str) -> None:
    """Refuse weights that are split over processes for a task that needs all of them in each.

    Args:
        options: The node ``trainer`` of a config.
        task: What is done, for the message.

    Raises:
        FlowportError: For more than one process with ``trainer.strategy=fsdp``.
    """
    if processes_of(options) > 1 and options.get("strategy") == "fsdp":
        raise FlowportError(
            f"trainer.strategy=fsdp splits the weights over processes, but {task} needs all of them in each: use "
            "trainer=ddp"
        )


def _check_processes(options: DictConfig) -> None:
    many = next((key for key in ("devices", "num_nodes") if options.get(key, 1) != 1), None)
    if many is None:
        return
    strategy, place = options.get("strategy", "auto"), str(options.get("accelerator", "auto"))
    if strategy not in SHARED:
        raise FlowportError(
            f"trainer.{many}={options[many]} needs a strategy for several processes that flowport supports, not "
            f"trainer.strategy={strategy}: use trainer=ddp, which copies the weights, or trainer=fsdp, which splits "
            "them"
        )
    if strategy == "fsdp" and options.get("precision") == "16-mixed":
        raise FlowportError(
            "trainer.precision=16-mixed scales gradients, which trainer.strategy=fsdp does not support: use "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if ":" in place or place == "mps":
        raise FlowportError(
            f"trainer.{many}={options[many]} is several processes, but trainer.accelerator={place} is one device: use "
            f"trainer.accelerator=gpu or cpu, or trainer.{many}=1"
        )


def _check_precision(precision: str | int | None) -> None:
    if precision is None or str(precision) in PRECISIONS:
        return
    if str(precision) in HALVES:
        raise FlowportError(
            f"trainer.precision={precision} would keep the moving average of the weights in half precision, where its "
            f"small steps are lost: use trainer.precision={HALVES[str(precision)]}"
        )
    raise FlowportError(f"trainer.precision={precision} is not supported: choose one of {', '.join(PRECISIONS)}")


def lightning_options(options: DictConfig) -> DictConfig:
    """The node without what Lightning's Trainer does not take.

    Args:
        options: The node ``trainer`` of a config, checked.
    """
    return OmegaConf.create({name: value for name, value in options.items() if name != "tf32"})
