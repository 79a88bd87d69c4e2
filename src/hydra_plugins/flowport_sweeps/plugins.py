"""A sweeper whose folder is the state of the sweep, and launchers of processes, Slurm jobs and Ray tasks.

Hydra reads this module at every command: nothing heavy is imported before a sweep begins.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from flowport.run.local_workers import LocalWorkers


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
        from flowport.run.planned_job import PlannedJob
        from flowport.run.sweep_domains import pair_words
        from flowport.run.sweep_folder import run_sweep

        overrides, loader, folder = self._read(arguments)
        assert self.config is not None and self.launcher is not None
        self.overrides = self.split_arguments(overrides, self.max_batch_size)
        domains: Any = self.domains
        grid = [list(job) for batch in self.overrides for job in batch]
        jobs = list[PlannedJob]()
        for words in ([*pair, *job] for pair in pair_words(domains) for job in grid):
            jobs.append(PlannedJob.of(folder, len(jobs), words, loader.load_sweep_config(self.config, words)))
        run_sweep(folder, jobs, self.launcher.launch, self.config, self.max_batch_size or len(jobs))

    def _read(self, arguments: list[str]) -> tuple[list[Override], ConfigLoader, Path]:
        """What varies and what does not, as Hydra parsed it, the loader of configs, and the sweep's folder."""
        from flowport.run.config_checks import check_kind
        from flowport.run.job_status import PLACES
        from flowport.run.sweep_composer import SweepComposer

        assert self.config is not None and self.hydra_context is not None
        check_kind("jobs", self.config.get("jobs", 1), int, 1)
        loader = cast(ConfigLoader, SweepComposer(self.hydra_context.config_loader))
        self.hydra_context.config_loader = loader  # which the launcher uses
        words = [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        overrides = [each for each in overrides if each.get_key_element() not in PLACES]  # no settings
        return overrides, loader, Path(str(self.config.hydra.sweep.dir)).absolute()


class OptunaSweeper(FolderSweeper):
    """Optuna proposes the jobs by ask and tell, on its journal in the folder of the sweep.

    Args:
        max_batch_size: Not used.
        params: Values and ranges by key.
        n_trials: Number of trials that are runs, those of earlier calls of the same command among them.
        sampler: Node of Optuna's sampler.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None, n_trials: int, sampler: DictConfig
    ) -> None:
        super().__init__(max_batch_size, params)
        self.n_trials, self.sampler = n_trials, sampler

    def sweep(self, arguments: list[str]) -> Any:
        from flowport.run.planned_job import PlannedJob
        from flowport.run.search_folder import Search, run_search
        from flowport.run.search_space import SearchSpace

        overrides, loader, folder = self._read(arguments)
        assert self.config is not None and self.launcher is not None
        master, space = self.config, SearchSpace.of(overrides)

        def plan(number: int, words: tuple[str, ...]) -> PlannedJob:
            return PlannedJob.of(folder, number, words, loader.load_sweep_config(master, list(words)))

        search = Search(folder, space, plan, self.n_trials, self.sampler)
        stream = self.launcher.stream if isinstance(self.launcher, LocalLauncher) else None
        run_search(search, self.launcher.launch, stream, master)


class SweepLauncher(Launcher):
    """A launcher that gives its processes what Hydra has composed."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.setting: dict[str, Any] = {"context": hydra_context, "task": task_function, "config": config}

    @property
    def pickled(self) -> bytes:
        """What a process reads before its jobs."""
        import pickle
        import sys

        return pickle.dumps({**self.setting, "singletons": Singleton.get_state()["instances"], "argv": sys.argv})

    @staticmethod
    def returned(job_overrides: Sequence[Sequence[str]], found: Sequence[Any]) -> list[JobReturn]:
        """Hydra's record of every job.

        Args:
            job_overrides: Words of each.
            found: What each returned, or the exception that it raised.
        """
        returns = []
        for words, value in zip(job_overrides, found, strict=True):
            failed = isinstance(value, BaseException)
            done = JobReturn(overrides=words, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
            done.return_value = value
            returns.append(done)
        return returns


class LocalLauncher(SweepLauncher):
    """Processes on this machine, ``jobs`` at a time; one that is killed costs its own job alone.

    Args:
        jobs: Number of processes.
        **other: Options of other launchers, which are refused by name.
    """

    def __init__(self, jobs: int = 2, **other: Any) -> None:
        self.jobs, self.other = jobs, other

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [(initial_job_idx + k, list(words)) for k, words in enumerate(job_overrides)]
        return self.returned(job_overrides, self._workers().run(jobs))

    def stream(self, take: Callable[[], tuple[int, Sequence[str]] | None], ended: Callable[[int, Any], None]) -> None:
        """Run jobs that are chosen when a process becomes free.

        Args:
            take: The number and the overrides of the next job; None where there is none.
            ended: Called with the number of a job and what it returned, or the exception that it raised.
        """

        def next_job() -> tuple[int, Any] | None:
            found = take()
            return None if found is None else (found[0], (found[0], list(found[1])))

        self._workers().stream(next_job, ended)

    def _workers(self) -> "LocalWorkers":
        from flowport.errors import FlowportError
        from flowport.run.local_workers import LocalWorkers

        for name in self.other:
            raise FlowportError(
                f"hydra.launcher.{name} is no option of hydra/launcher=local: jobs=<how many at a time>"
            )
        folder = Path(str(self.setting["config"].hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        return LocalWorkers(self.pickled, self.jobs, folder / "workers.txt")


class SlurmLauncher(SweepLauncher):
    """One array of Slurm jobs, submitted by submitit, that this process or a later one waits for.

    Args:
        **options: Of submitit, for instance ``timeout_min`` and ``partition``; null leaves one out.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from omegaconf import OmegaConf

        from flowport.run.slurm_jobs import SlurmJobs

        context, config = self.setting["context"], self.setting["config"]
        options = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in self.options.items()}
        jobs = list[tuple[int, list[str], Path]]()
        for number, words in enumerate(job_overrides, initial_job_idx):
            sweep = context.config_loader.load_sweep_config(config, list(words)).hydra.sweep
            jobs.append((number, list(words), Path(str(sweep.dir)) / str(sweep.subdir)))
        queue = SlurmJobs(Path(str(config.hydra.sweep.dir)), self.pickled, options)
        return self.returned(job_overrides, queue.run(jobs))


class RayLauncher(SweepLauncher):
    """Tasks of Ray, ``jobs`` at a time.

    Args:
        jobs: Number of tasks.
        address: Of a cluster; None starts one on this machine.
        **needs: Options of a task, for instance ``num_gpus``.
    """

    def __init__(self, jobs: int = 2, address: str | None = None, **needs: Any) -> None:
        self.jobs, self.address, self.needs = jobs, address, needs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from flowport.run.ray_jobs import RayJobs

        jobs = [(initial_job_idx + k, list(words)) for k, words in enumerate(job_overrides)]
        return self.returned(job_overrides, RayJobs(self.pickled, self.jobs, self.address, self.needs).run(jobs))
