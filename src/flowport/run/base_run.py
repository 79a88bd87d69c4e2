"""The run that a fine-tuning or a reflow starts from: the one that was named, or one trained on the spot, once."""

import logging
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError
from flowport.run.cli import composed

logger = logging.getLogger(__name__)
BASES = Path("outputs/base")


def base_of(config: DictConfig) -> Path:
    """The folder of ``config.run``, or of the experiment ``config.base`` trained in outputs/base, under a hash of its
    config: at once where it is finished, from its last checkpoint where it was interrupted.

    Safe where several processes ask at once: one trains, the others wait. Raises FlowportError where neither is named
    and where that training fails.
    """
    if config.run is not None:
        return Path(config.run)
    if config.base is None:
        raise FlowportError(
            "nothing to start from: give run=<folder of a trained run>, or an experiment that has a base, for instance "
            "experiment=finetune_digits_to_mnist or experiment=digits_to_mnist_reflow"
        )
    words = [f"experiment={config.base}"]
    text = OmegaConf.to_yaml(composed("train", words), resolve=False)
    folder = BASES / f"{config.base}-{blake2b(text.encode(), digest_size=4).hexdigest()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "metrics.json").is_file():
            _train(folder, words)
    return folder


def _train(folder: Path, words: list[str]) -> None:
    begun = (folder / "checkpoints" / "last.ckpt").is_file()
    logger.info("%s the base %s", "going on with" if begun else "training", folder)
    asked = [f"run={folder}"] if begun else [*words, f"hydra.run.dir={folder}"]
    if subprocess.run([sys.executable, "-m", "flowport.run", "train", *asked], check=False).returncode:
        raise FlowportError(
            f"the base could not be trained: see above, or train it by flowport train {' '.join(words)}"
        )
