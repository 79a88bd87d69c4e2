"""The sample rate of recordings, where a config leaves it to the files."""

import logging

from omegaconf import DictConfig

from flowport.distribution.user_folders import rate_of_files
from flowport.errors import FlowportError

logger = logging.getLogger(__name__)
FOLDER = "flowport.distribution.AudioFolder"


def settle(config: DictConfig) -> None:
    """Write the sample rate of the files where the config has null.

    Both sides have one rate: the lower of the two where their files differ, which is said. Where one side's is given,
    the other one has it too unless its files have a lower rate, which two sides that differ are then refused for.

    Args:
        config: The config of a run, in which nulls are replaced.

    Raises:
        FlowportError: When no recording of a folder can be read.
    """
    folders = {side: config[side] for side in ("source", "target") if config[side].get("_target_") == FOLDER}
    sounds = {side: node.modality for side, node in folders.items() if node.get("modality") is not None}
    open_ = [side for side, modality in sounds.items() if modality.get("rate") is None]
    if open_:
        given = {side: int(modality.rate) for side, modality in sounds.items() if modality.get("rate") is not None}
        rate = _lowest(given | {side: _rate_of(side, str(folders[side].path)) for side in open_})
        for side in open_:
            sounds[side].rate = rate


def _rate_of(side: str, path: str) -> int:
    found = rate_of_files(path)
    if found is None:
        raise FlowportError(f"{side}.path={path} holds no recording whose sample rate can be read")
    return found


def _lowest(rates: dict[str, int]) -> int:
    """The lowest of the rates that are given or found, which is said."""
    lowest = min(rates.values())
    if len(set(rates.values())) > 1:
        told = " and ".join(f"{rate} Hz of the {side}" for side, rate in rates.items())
        logger.warning("sample rates are %s: sides without a given rate are resampled to %d Hz", told, lowest)
    else:
        logger.info("recordings have %d Hz, which is the rate of this run", lowest)
    return lowest
