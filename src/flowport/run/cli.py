"""The command line: Hydra around a task, and every mistake of the user's as one sentence without a traceback.

Light to import, so that --help answers at once: a launcher imports torch only when its task runs.
"""

import errno
import functools
import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from flowport.errors import FlowportError, Stopped, printable
from flowport.run.reward_words import FORMS
from flowport.run.words import Groups, check_words, objectives

UNKNOWN = re.compile(r"Could not override '([^']+)'")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR2)
"""Signals that stop a command; SIGUSR2 is the one by which a cluster announces its time limit."""
UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR),
    *(errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG),
)
DEVICE_MEMORY = re.compile(
    r"(?:CUDA|HIP|MPS backend)(?: error:)? out of memory(?:[^\n]*?Tried to allocate ([\d.]+ [KMGT]iB))?"
)
MEMORY = re.compile(
    r"can't allocate memory: you tried to allocate (\d+) bytes|Storage size calculation overflowed|"
    r"integer multiplication overflow|out of memory|Unable to allocate|invalid size|too large to"
)
"""What torch and numpy say of a size that no memory holds."""
UNSAVED = re.compile(r"inline_container\.cc|PytorchStreamWriter failed writing")
"""What torch says where a disk does not take a checkpoint."""
UNBUILT = re.compile(r"Error (?:in call to|locating) target '([^']+)'.*?full_key: (\S+)", re.DOTALL)


Task = Callable[[DictConfig, Path], Mapping[str, Any] | None]
"""(config, the folder that Hydra made) -> the numbers that came of it, None where there are none to tell."""


def launch(task: Task, configs: Path, name: str) -> None:
    """Run a task as a Hydra application; its numbers are printed as a table, and a sweeper is given one of them.

    Exits with status 2 and one sentence on stderr for bad input; bugs keep their traceback.

    Args:
        task: What is run.
        configs: The folder of configs.
        name: Its primary config; ``config.optimise`` names the number, or the numbers, that a sweeper optimises.

    Raises:
        FlowportError: For options and config names that do not exist; printed before it leaves this function.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed as Hydra likes
    with report_errors():
        groups = Groups(configs, name)
        check_words(sys.argv[1:], groups)
        elsewhere = {"--help", "-h", "--cfg", "-c", "-m", "--multirun"}  # arguments by which nothing is written there
        if name != "arena" and not elsewhere & set(sys.argv):  # arena runs no finished duel again
            _check_folder(sys.argv[1:])
        with explained(groups):
            hydra.main(version_base="1.3", config_path=str(configs.resolve()), config_name=name)(_job(task))()


@contextmanager
def explained(groups: Groups) -> Iterator[None]:
    """A context in which what Hydra cannot compose is said in a sentence.

    Args:
        groups: The groups of the command.

    Raises:
        FlowportError: With the sentence.
    """
    try:
        yield
    except MissingConfigException as error:
        group, _, member = str(error.missing_cfg_file).rpartition("/")
        members = sorted(error.options or (path.stem for path in (groups.configs / group).glob("*.yaml")))
        own = f", or {FORMS}" if group == "reward" else ""
        raise FlowportError(f"{group}={member} does not exist: choose {', '.join(members)}{own}") from None
    except ConfigCompositionException as error:
        if "'hydra/launcher/ray' with schema" in str(error):
            raise FlowportError(
                "hydra-ray-launcher has a config of the same name: uninstall it, Ray alone is needed"
            ) from None
        unknown = UNKNOWN.search(str(error))
        if unknown is None:
            raise
        raise FlowportError(_unknown(unknown[1], groups)) from None


def composed(name: str, words: list[str]) -> DictConfig:
    """Another command's config, composed from within a command's task, or outside of any.

    Args:
        name: Its primary config.
        words: Overrides.
    """
    if GlobalHydra.instance().is_initialized():
        return compose(name, words)
    from flowport.run.commands import configs

    with hydra.initialize_config_dir(str(configs().resolve()), version_base="1.3"):
        return compose(name, words)


def _wanted(numbers: Mapping[str, Any], optimise: Any) -> Any:
    """The number that a sweeper optimises, several as a list, None where none is requested."""
    names = objectives(optimise)
    for name in names:
        if name not in numbers:
            listed = ", ".join(sorted(numbers))
            raise FlowportError(f"optimise={name} is not measured in this run: choose one of {listed}")
    found = [numbers[name] for name in names]
    return found if optimise is not None and not isinstance(optimise, str) else next(iter(found), None)


class report_errors:
    """Context in which a FlowportError, or a mistake Hydra or OmegaConf found, ends the process with one sentence.

    What libraries warn of their own code is not shown beside it, unless -W or PYTHONWARNINGS asks for warnings.
    """

    def __enter__(self) -> None:
        Stopped.received = None
        self.shown = warnings.showwarning
        if not sys.warnoptions:
            warnings.showwarning = functools.partial(_show, self.shown)
        self.handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            stopping = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup ignores SIGHUP
            self.handlers = {n: signal.signal(n, stop_by) for n in stopping}
        if sys.argv[0].endswith(".py"):  # launch/tabulate.py must not hide the library that others import
            launchers = Path(sys.argv[0]).resolve().parent
            sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != launchers]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            error = Stopped(signal.SIGINT)
        if isinstance(error, Stopped):
            for number in self.handlers:  # a second signal does not cut off the sentence
                signal.signal(number, signal.SIG_IGN)
            sys.stderr.write(f"flowport: {error}\n")
            sys.stderr.flush()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        warnings.showwarning = self.shown
        if isinstance(error, Stopped):
            raise SystemExit(error.status) from None
        sentence = sentence_of(error)
        if sentence is not None:
            sys.stderr.write(f"flowport: {sentence}\n")
            raise SystemExit(2) from None


def _show(show: Callable[..., None], message: Any, kind: Any, filename: str, *rest: Any) -> None:
    """Show a warning, unless it is of a library's code: a file of Python's or of an installed package."""
    place = Path(filename)
    own = place.is_relative_to(Path(__file__).parents[1])
    installed = {"site-packages", "dist-packages"} & set(place.parts) or place.is_relative_to(Path(os.__file__).parent)
    if own or not (installed or filename.startswith("<frozen")):
        show(message, kind, filename, *rest)


def stop_by(number: int, frame: object) -> None:
    """Handler of a signal that comes outside of training.

    Args:
        number: Of the signal.
        frame: Not used.

    Raises:
        Stopped: Always.
    """
    Stopped.received = number
    raise Stopped(number)


@contextmanager
def said_how_to_go_on(folder: Path) -> Iterator[None]:
    """A context in which a signal that comes outside of training says what is saved and how to go on.

    Args:
        folder: The run's.

    Raises:
        Stopped: With the sentence.
    """
    from flowport.run.run_folder import RunFolder

    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT)
        run = RunFolder(folder)
        state = "before anything was saved: give the same command again"
        if run.begun:
            state = f"with its last checkpoint saved: go on by flowport train run={run}"
        if run.finished:
            state = f"after its numbers were saved: the run in {run} is finished"
        raise Stopped(number, getattr(stop, "state", "") or state) from None


def sentence_of(error: BaseException | None) -> str | None:
    """The sentence for a user's mistake, None for anything else (a bug, or no error).

    Args:
        error: What was raised.
    """
    cause = error
    while cause is not None:  # Hydra wraps what a constructor raised
        if isinstance(cause, FlowportError):
            return _one_line(str(cause))
        if isinstance(cause, MemoryError | RuntimeError) and (
            isinstance(cause, MemoryError) or MEMORY.search(str(cause))
        ):
            return _too_large(str(cause))
        cause = cause.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} needs a value: write {error.full_key}=…"
    if isinstance(error, InstantiationException):
        built = UNBUILT.search(str(error))
        what = f"{built[2]} ({built[1]}) cannot be built: " if built else ""
        return what + _one_line(str(error.__cause__ or error))
    return _one_line(str(error)) if isinstance(error, (HydraException, OmegaConfBaseException)) else _unwritable(error)


def _too_large(message: str) -> str:
    if on_device := DEVICE_MEMORY.search(message):
        wanted = f" (it was asked for {on_device[1]} more)" if on_device[1] else ""
        return (
            f"the GPU has too little memory{wanted}: in a fine-tuning write rows=8 for fewer rows of networks at a "
            "time, or lower starts, method.batch or method.replay_size; elsewhere lower data.batch, data.pool, "
            "evaluation_items or network.width; trainer.precision=bf16-mixed halves activations; what was saved before "
            "is whole"
        )
    found = MEMORY.search(message)
    size = f"{int(found[1]) / 2**30:,.1f} GiB" if found and found[1] else "more than its address space"
    return (
        f"{size} of memory were asked for in one piece, which this machine does not give: lower data.batch, data.pool, "
        "evaluation_items, network.width, network.depth, grid.steps or the size of the data"
    )


def _unwritable(error: BaseException | None) -> str | None:
    """The sentence for a full disk, or a folder that may not be written."""
    if isinstance(error, RuntimeError) and UNSAVED.search(str(error)):
        return "a checkpoint cannot be written: no space is left on the disk; what was saved before is whole"
    if not isinstance(error, OSError) or error.errno not in UNWRITABLE:
        return None
    where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    return f"{where}: {os.strerror(error.errno)}; what was saved before is whole"


def resolve_paths(config: DictConfig) -> None:
    """Make a user's relative paths absolute, so that a run finds its data from any directory later.

    Args:
        config: A composed config, in which they are replaced: ``run``, ``input`` and ``draw`` of the command, and every
            string ``path`` or ``reference`` of a part.
    """
    start = Path(HydraConfig.get().runtime.cwd if HydraConfig.initialized() else ".").absolute()
    for key in ("run", "input", "draw"):
        if OmegaConf.select(config, key):
            config[key] = str(start / Path(config[key]).expanduser())
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        names = [] if part._is_none() or part._is_missing() else list(part)
        for name in names if isinstance(part, DictConfig) else range(len(names)):
            if OmegaConf.is_missing(part, name) or OmegaConf.is_interpolation(part, name):
                continue
            value = part[name]
            if isinstance(value, (DictConfig, ListConfig)):
                parts.append(value)
            elif name in ("path", "reference") and isinstance(value, str):
                part[name] = str(start / Path(value).expanduser())


def _job(task: Task) -> Callable[[DictConfig], Any]:
    """Hydra's task, a function of a module so that launchers can send it to other processes."""
    return functools.update_wrapper(functools.partial(_run_job, task), task)


def _run_job(task: Task, config: DictConfig) -> Any:
    """Run a task in Hydra's folder; a refusal ends a single run at once and is noted in its job's folder in a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from flowport.run.sweep_job import run_in_sweep

        numbers = run_in_sweep(functools.partial(_work, task), functools.partial(_work, _go_on), config, folder)
        return None if numbers is None else _wanted(numbers, config.get("optimise"))
    try:
        numbers = _work(task, config, folder)
        return None if numbers is None else _wanted(numbers, config.get("optimise"))
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        sys.stderr.write(f"flowport: {sentence}\n")
        _remove_unused(folder)
        raise SystemExit(2) from None


def _work(task: Task, config: DictConfig, folder: Path) -> Mapping[str, Any] | None:
    """Check a config, run a task in its folder, and print its numbers."""
    from flowport.run.config_checks import check_keys
    from flowport.run.run_folder import RunFolder
    from flowport.run.trust import remember_programs

    check_keys(config)
    resolve_paths(config)
    RunFolder(folder).check_links()
    remember_programs(OmegaConf.to_container(config, resolve=False))
    with said_how_to_go_on(folder), RunFolder(folder).locked():
        numbers = task(config, folder)
    if numbers is not None:
        from flowport.evaluation.tables import table

        print(table(numbers, title=str(folder)))
        _wanted(numbers, config.get("optimise"))
    return numbers


def _go_on(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Continue the run of a job of a sweep from its own config and checkpoint."""
    from flowport.run.run_folder import RunFolder
    from flowport.run.stage import resume

    return resume(RunFolder(folder, bool(config.get("trust"))), [])


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a refused command where it holds nothing but what Hydra wrote into it."""
    hydra_wrote = {folder / ".hydra", *folder.glob("*.log")}
    if set(folder.iterdir()) <= hydra_wrote:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
                logging.getLogger().removeHandler(handler)  # it would open its file again
                handler.close()
        shutil.rmtree(folder, ignore_errors=True)


def _one_line(message: str) -> str:
    return printable(re.sub(r"\s*\n\s*", "; ", message.strip()))


def _unknown(key: str, groups: Groups) -> str:
    """The sentence for an option that does not exist, with those that do beside it."""
    chosen = [w for w in sys.argv[1:] if w.startswith("experiment=")]
    if chosen and not any(key.partition("@")[0] in w for w in sys.argv[1:]):
        return f"{chosen[0]} is no experiment of {groups.name}: it sets {key}, which {groups.name} takes from its run"
    GlobalHydra.instance().clear()
    words = [w for w in sys.argv[1:] if "=" in w and not w.lstrip("+~").startswith((f"{key}=", "hydra", "-"))]
    parent, _, _ = key.rpartition(".")
    try:
        with hydra.initialize_config_dir(str(groups.configs.resolve()), version_base="1.3"):
            config = hydra.compose(groups.name, words)
        beside = OmegaConf.select(config, parent) if parent else config
        options = ", ".join(str(k) for k in beside if not str(k).startswith("_"))
        target = str(beside.get("_target_", ""))
    except (HydraException, OmegaConfBaseException, TypeError):
        if groups.members(parent):
            return f"{key} is no option yet, because {parent} stays as the run has it: choose {parent}=<name> as well"
        if groups.members(key):
            return f"{key} is chosen within another part here: write {key}@<part>.{key}=<name>"
        return f"{key} is no option: --help shows all of them"
    hint = (
        ": method=auto chooses the method, name one to set its options"
        if "finetuning.method.AutoMethod" in target
        else ""
    )
    return f"{key} is no option: {parent or 'this command'} has {options or 'none'}{hint}"


def _check_folder(words: list[str]) -> None:
    """Hydra writes its config into a folder before the command begins, also over that of a run."""
    from flowport.run.run_folder import RunFolder

    for word in words:
        if word.startswith("hydra.run.dir=") and "${" not in word:
            folder = RunFolder(Path(word.removeprefix("hydra.run.dir=").strip("'\"")))
            if folder.stamp.is_file() and (folder.begun or folder.finished):
                raise FlowportError(
                    f"hydra.run.dir={folder} holds a run: give another folder, or go on by flowport train run={folder}"
                )
