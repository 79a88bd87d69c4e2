"""The run that a fine-tuning or a reflow starts from: the one that was named, or one trained on the spot, once."""

import logging
import signal
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, Stopped
from flowport.run.cli import composed
from flowport.run.config_checks import check_kind
from flowport.run.device import asked
from flowport.run.rank_place import alone
from flowport.run.run_folder import RunFolder
from flowport.run.trainer_options import REACHING, SHARED
from flowport.run.words import Groups

logger = logging.getLogger(__name__)
BASES = Path("outputs/base")


def base_of(config: DictConfig) -> RunFolder:
    """The run that ``config.run`` names, or that of the experiment ``config.base``, which is trained where it is not.

    Such a base is trained on the accelerator and in the precision of the command (``device``, ``trainer``). It is in
    outputs/base of the working directory, under a hash of its config; an interrupted training goes on from its last
    checkpoint. Safe where several processes ask at once: one trains, the others wait.

    Args:
        config: The composed config of finetune or reflow.

    Raises:
        FlowportError: Where neither is named, and where that training fails.
    """
    if config.run is not None:
        if config.base is not None:
            logger.warning("the run %s is the base, and not base=%s, because run= is given", config.run, config.base)
        return RunFolder(Path(config.run), config.trust)
    check_kind("base", config.base, str | None)
    if config.base is None:
        raise FlowportError(
            "nothing to start from: give run=<folder of a trained run>, or an experiment that has a base, for instance "
            "experiment=finetune_digits_to_mnist or experiment=digits_to_mnist_reflow"
        )
    from flowport.run.commands import configs

    known = Groups(configs(), "train").members("experiment")
    if config.base not in known:
        raise FlowportError(f"base={config.base} is no experiment: choose {', '.join(known)}")
    words = [f"experiment={config.base}"]
    words += reaching(config, composed("train", words).trainer)
    text = OmegaConf.to_yaml(composed("train", words), resolve=False)
    folder = RunFolder(BASES / f"{config.base}-{blake2b(text.encode(), digest_size=4).hexdigest()}")
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.path.with_suffix(".lock")):
        if not folder.finished:
            _train(folder, words)
    return folder


def reaching(config: DictConfig, own: DictConfig) -> list[str]:
    """Overrides by which a base is trained as the command computes: ``capture``, and what of ``REACHING`` it sets.

    A base is trained in one process.

    Args:
        config: The composed config of finetune or reflow.
        own: The trainer that the experiment of the base has without them.
    """
    device = asked(config)
    said = {**(config.get("trainer") or {}), **({} if device is None else {"accelerator": device})}
    plain = {key: said[key] for key in REACHING if said.get(key) is not None and said[key] not in SHARED}
    words = ["capture=false"] if config.get("capture") is False else []
    return words + [
        f"{'' if key in own else '+'}trainer.{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in plain.items()
        if value != own.get(key, True if key == "tf32" else None)
    ]


def _train(folder: RunFolder, words: list[str]) -> None:
    logger.info("%s the base %s", "going on with" if folder.begun else "training", folder)
    asked = [f"run={folder}"] if folder.begun else [*words, f"hydra.run.dir={folder}"]
    # -P: a file of the working directory that is called like a library is not imported
    process = subprocess.Popen([sys.executable, "-P", "-m", "flowport.run", "train", *asked], env=alone())
    try:
        process.wait()
    except (Stopped, KeyboardInterrupt) as stop:
        _stop(process, stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT), folder)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode or not folder.finished:
        raise FlowportError(
            f"the base could not be trained: see above, or train it by flowport train {' '.join(words)}"
        )


def _stop(process: subprocess.Popen[bytes], number: int, folder: RunFolder) -> None:
    """Pass a signal on to the training of a base, which then saves its last step; a second signal ends it at once.

    A terminal's Ctrl-C has reached it already, and it takes the second for the same.

    Raises:
        Stopped: With what is saved.
    """
    if process.poll() is None:
        process.send_signal(number)
    process.wait()
    state = f"its base {folder} was trained, {'of which the last step is saved' if folder.begun else 'yet unsaved'}"
    raise Stopped(number, f"while {state}: give the same command again, which goes on with it") from None
