"""A source of configs for words such as ``reward=file.py:Name`` (``flowport.run.reward_words``).

Hydra reads this module at every command: nothing heavy is imported before such a word is read.
"""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

SCHEME = "flowport-rewards"
GROUP = "reward/"


class OwnRewards(ConfigSource):
    """Configs of the group ``reward`` beside those in its folder, made of the words themselves."""

    @staticmethod
    def scheme() -> str:
        """The scheme of its search path, whose rest is the folder of the configs."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The config of a word.

        Args:
            config_path: ``reward/`` and the word.

        Raises:
            FlowportError: For code that is not there, fails, or is no reward.
        """
        from flowport.run.reward_words import config_of

        config = OmegaConf.create(config_of(config_path.removeprefix(GROUP), Path(self.path) / GROUP))
        return ConfigResult(self.provider, f"{SCHEME}://{self.path}", config, {"package": None})

    def is_config(self, config_path: str) -> bool:
        """Whether a path is that of a word.

        Args:
            config_path: ``reward/`` and the word.
        """
        from flowport.run.reward_words import is_own

        return config_path.startswith(GROUP) and is_own(config_path.removeprefix(GROUP))

    def is_group(self, config_path: str) -> bool:
        """None is listed.

        Args:
            config_path: Not used.
        """
        return False

    def available(self) -> bool:
        """Always."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """None is listed.

        Args:
            config_path: Not used.
            results_filter: Not used.
        """
        return []


class OwnRewardsSearchPath(SearchPathPlugin):
    """Puts the source behind the configs of flowport, and of no other application of Hydra."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source.

        Args:
            search_path: Of the application.
        """
        for place in search_path.get_path():
            folder = Path(str(place.path).removeprefix("file://"))
            if (
                place.provider == "main"
                and (folder / "finetune.yaml").is_file()
                and (folder / "reward/sum.yaml").is_file()
            ):
                search_path.append("flowport", f"{SCHEME}://{folder}")
                return
