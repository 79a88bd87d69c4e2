"""A Slurm of one machine for tests: it lives in a folder, without accounting, and ends what it began."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

SETTINGS = """
ClusterName=flowport
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
"""slurm.conf."""


def installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch", "srun"))


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


class Cluster:
    """Slurm's daemons and munge's, with all their files in one folder.

    Slurm holds a job that is queued again for two minutes; here it starts after two seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "slurm.conf"
        self.variables = {**os.environ, "SLURM_CONF": str(self.settings)}
        self.began: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        self.watch = threading.Thread(target=self._hasten, daemon=True)

    def start(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        munge, host = self.folder / "munge", socket.gethostname().partition(".")[0]
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        ports = {"controller": free_port(), "daemon": free_port()}
        self.settings.write_text(SETTINGS.format(host=host, user=getpass.getuser(), folder=self.folder, **ports))
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._begin("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        self._until(lambda: (munge / "socket").exists())
        self._begin("slurmctld", "-D", "-c")
        self._begin("slurmd", "-D", "-c")
        self._until(lambda: self.ask("sinfo", "--noheader", "--format=%T") == "idle")
        self.watch.start()

    def _hasten(self) -> None:
        done = set[str]()
        while not self.over.wait(0.5):
            held = self.ask("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines()
            waiting = {line.split()[0] for line in held if line.endswith("BeginTime")}
            for number in waiting - done:
                self.ask("scontrol", "update", f"JobId={number}", "StartTime=now+2")  # its old credential has ended
            done = waiting

    def _begin(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.said").open("wb") as said:
            self.began.append(
                subprocess.Popen(command, env=self.variables, stdout=said, stderr=said, start_new_session=True)
            )

    def _until(self, condition, seconds: float = 30.0) -> None:
        late = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < late, "\n".join(
                f"{file}: {file.read_text()[-1000:]}" for file in sorted(self.folder.glob("*.said"))
            )
            assert all(process.poll() is None for process in self.began)
            time.sleep(0.1)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands answers; empty where it fails."""
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if not done.returncode else ""

    def stop(self) -> None:
        """End all jobs and then the daemons, those that do not listen by force."""
        self.over.set()
        if self.watch.is_alive():
            self.watch.join()
        late = time.monotonic() + 20
        jobs = self.ask("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.ask("scancel", "--full", "--signal=KILL", *jobs)
            self.ask("scancel", *jobs)
        while self.ask("squeue", "--noheader", "--format=%A") and time.monotonic() < late:
            time.sleep(0.2)
        for process in reversed(self.began):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
