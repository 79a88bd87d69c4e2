"""Jobs of a sweep as tasks of a Ray cluster, of one that is running or of one that is started on this machine."""

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from flowport.errors import FlowportError, Stopped
from flowport.run.local_workers import GRACE, Killed
from flowport.run.planned_job import LOOK
from flowport.run.sweep_job import run_pickled


def work(setting: bytes, number: int, words: Sequence[str]) -> Any:
    """Run one job in a process of Ray's.

    Args:
        setting: Pickled values of the sweep, as of ``LocalWorkers``.
        number: Of the job.
        words: Its overrides.

    Returns:
        Its value, the exception that it raised, or ``Killed`` where a signal stopped it.
    """
    try:
        return run_pickled(setting, number, words)
    except (Stopped, KeyboardInterrupt) as stop:  # which would end the process, and Ray would run the job again
        return Killed(str(stop) or "SIGINT")


class RayJobs:
    """Runs jobs as tasks of Ray, a number of them at a time; Ray runs a task again whose process was killed.

    Args:
        setting: Pickled values of the sweep.
        jobs: Number of tasks at a time.
        address: Of the cluster, for instance ``"auto"``; None starts one on this machine.
        needs: Options of a task, for instance ``num_cpus`` and ``num_gpus``.

    Raises:
        FlowportError: Where Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, setting: bytes, jobs: int, address: str | None, needs: Mapping[str, Any]) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise FlowportError('hydra/launcher=ray needs Ray: pip install "flowport[ray]"') from None
        self.ray, self.jobs, self.own = ray, jobs, not ray.is_initialized()
        path = os.pathsep.join(place for place in sys.path if place)
        options = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        if address is None:
            options |= {"num_cpus": max(1, round(jobs * float(needs.get("num_cpus", 1)))), "include_dashboard": False}
        if self.own:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            try:
                ray.init(address=address, **options)
            except (ConnectionError, ValueError) as error:
                said = str(error).strip().splitlines()[0]
                raise FlowportError(f"hydra.launcher.address={address} is no Ray cluster: {said}") from None
        self.task = ray.remote(**needs)(work).remote
        self.setting = ray.put(setting)

    def run(self, jobs: Sequence[tuple[int, Sequence[str]]]) -> list[Any]:
        """What the jobs returned, or the exceptions that they raised, in order.

        Where this is interrupted by an exception, the tasks are cancelled, which save their checkpoints.

        Args:
            jobs: Number and overrides of each.
        """
        waiting, running = deque(enumerate(jobs)), dict[Any, int]()
        results: list[Any] = [None for _ in jobs]
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    place, (number, words) = waiting.popleft()
                    running[self.task(self.setting, number, words)] = place
                time.sleep(LOOK)  # a signal interrupts this
                for done in self.ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                    results[running.pop(done)] = self._result(done)
        except BaseException:
            self._cancel(list(running))
            raise
        finally:
            if self.own:
                self.ray.shutdown()
        return results

    def _cancel(self, running: list[Any]) -> None:
        """Stop tasks, and wait until they have saved."""
        for task in running:
            self.ray.cancel(task)
        if running:
            self.ray.wait(running, num_returns=len(running), timeout=GRACE)
        if Stopped.received is not None:  # Ray's core makes another exception of one that a handler raised in it
            raise Stopped(Stopped.received) from None

    def _result(self, task: Any) -> Any:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return Killed(f"Ray ({type(error).__name__})")
