"""A sweeper whose folder is the state of the sweep, and a launcher of processes on this machine.

Hydra reads this module at every command: nothing heavy is imported before a sweep begins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class FolderSweeper(BasicSweeper):
    """Hydra's own sweeper, whose jobs leave their states in the folder of the sweep.

    The same command again skips finished jobs, resumes those with a checkpoint, and runs failed ones anew, under every
    launcher.

    Args:
        max_batch_size: Largest number of jobs that the launcher is given at once.
        params: Swept values by key.
        domains: Domains by name, by group: all combinations are run for every ordered pair of two of one group.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        domains: DictConfig | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.domains = OmegaConf.to_container(domains) if isinstance(domains, DictConfig) else domains

    def sweep(self, arguments: list[str]) -> Any:
        from flowport.run.job_status import PLACES
        from flowport.run.planned_job import PlannedJob
        from flowport.run.sweep_domains import pair_words
        from flowport.run.sweep_folder import run_sweep

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        words = [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        overrides = [each for each in overrides if each.get_key_element() not in PLACES]  # no settings
        self.overrides = self.split_arguments(overrides, self.max_batch_size)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        domains: Any = self.domains
        grid = [list(job) for batch in self.overrides for job in batch]
        jobs = list[PlannedJob]()
        for words in ([*pair, *job] for pair in pair_words(domains) for job in grid):
            jobs.append(PlannedJob.of(folder, len(jobs), words, loader.load_sweep_config(self.config, words)))
        run_sweep(folder, jobs, self.launcher.launch, self.config, self.max_batch_size or len(jobs))


class LocalLauncher(Launcher):
    """Processes on this machine, ``jobs`` at a time; one that is killed costs its own job alone.

    Args:
        jobs: Number of processes.
        **other: Options of other launchers, which are refused by name.
    """

    def __init__(self, jobs: int = 2, **other: Any) -> None:
        self.jobs, self.other = jobs, other
        self.setting: dict[str, Any] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting = {"context": hydra_context, "task": task_function, "config": config}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import pickle
        import sys

        from flowport.errors import FlowportError
        from flowport.run.local_workers import LocalWorkers

        for name in self.other:
            raise FlowportError(
                f"hydra.launcher.{name} is no option of hydra/launcher=local: jobs=<how many at a time>"
            )
        folder = Path(str(self.setting["config"].hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        setting = pickle.dumps({**self.setting, "singletons": Singleton.get_state()["instances"], "argv": sys.argv})
        jobs = [(initial_job_idx + k, list(words)) for k, words in enumerate(job_overrides)]
        found = LocalWorkers(setting, self.jobs, folder / "workers.txt").run(jobs)
        returns = []
        for words, value in zip(job_overrides, found, strict=True):
            failed = isinstance(value, BaseException)
            done = JobReturn(overrides=words, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
            done.return_value = value
            returns.append(done)
        return returns
