"""The commands of flowport: ``flowport train``, ``flowport finetune`` and so on; ``launch/<command>.py`` are the same.

Nothing heavy is imported before a command's own work begins, so that ``flowport --help`` answers at once.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport import __version__
from flowport.errors import FlowportError
from flowport.run.cli import Task, composed, explained, launch, report_errors, said_how_to_go_on
from flowport.run.rank_place import here
from flowport.run.reward_words import in_one_word
from flowport.run.words import Groups, check_words

PATHS = ("run", "input", "output", "draw", "hydra.run.dir", "hydra.sweep.dir")
"""Overrides whose value is a path."""
PATH = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[.*\]|[^,]+"""
"""One of several paths with commas between them: in quotes, a list, or up to the next comma."""

HELP = """usage: flowport <command> [key=value ...]

  train       train a flow, resume one (run=<folder>), or sweep (-m sweep=<name>)
  finetune    fine-tune a trained flow with a reward
  reflow      train a flow on its own pairs, so that its paths become straight
  evaluate    measure a trained run again with any solver, grid, volatility or metrics
  translate   translate points with a trained run: forward, backward or cycle
  likelihood  log-likelihood of held-out points under a trained run
  arena       fine-tune in problems whose tilted law is known, and score the result
  tabulate    a sweep as one table: terminal, csv, markdown, picture; and as a study of its items: study.html
  plot_weighting  what a run's loss weights over the log signal-to-noise ratio

flowport <command> --help shows the keys of a command; -sc bash|zsh|fish installs shell completion (Hydra).
"""


def configs() -> Path:
    """The folder of configs: the checkout's where there is one, else the one that the wheel holds."""
    checkout = Path(__file__).parents[3] / "configs"
    return checkout if (checkout / "train.yaml").is_file() else Path(__file__).parents[1] / "configs"


def _train(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Train one run in its folder."""
    from hydra.utils import instantiate

    from flowport.run.config_checks import check_values
    from flowport.run.run_folder import RunFolder

    check_values(OmegaConf.create({"stage": config.stage}))
    return instantiate(config.stage).run(config, RunFolder(folder))


def _finetune(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Fine-tune a trained run, or the experiment ``config.base`` trained first."""
    from flowport.run.base_run import base_of
    from flowport.run.boost import boosted, check_overrides
    from flowport.run.build import Parts
    from flowport.run.run_folder import RunFolder

    parts = Parts()
    check_overrides(config, parts)
    return boosted(base_of(config), config, RunFolder(folder, config.trust), parts)


def _reflow(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Train a trained run again on its own pairs."""
    from flowport.run.base_run import base_of
    from flowport.run.reflow import reflow
    from flowport.run.run_folder import RunFolder

    return reflow(base_of(config), config, RunFolder(folder, config.trust))


def _named(config: DictConfig) -> Path:
    if config.run is None:
        raise FlowportError("run=null names no run: write run=<the folder that a training run wrote>")
    return Path(config.run)


def _evaluate(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Measure a trained run again, into a new folder."""
    from flowport.run.evaluate import evaluate
    from flowport.run.run_folder import RunFolder

    return evaluate(RunFolder(_named(config), config.trust), config, RunFolder(folder, config.trust))


def _translate(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Write translated.npy, metrics.json and gallery.png into a new folder."""
    from flowport.run.run_folder import RunFolder
    from flowport.run.translate import translate

    return translate(RunFolder(_named(config), config.trust), config, RunFolder(folder, config.trust))


def _likelihood(config: DictConfig, folder: Path) -> Mapping[str, Any]:
    """Write test/nll and test/bits_per_dim of a run into a new folder."""
    from flowport.run.log_likelihood import log_likelihood
    from flowport.run.run_folder import RunFolder

    return log_likelihood(RunFolder(_named(config), config.trust), config, RunFolder(folder, config.trust))


DUEL_PARTS = ("problem", "method", "adapter", "optimizer", "scheduler", "trainer", "base")
"""Parts of the arena's config that a duel is built from."""


def _arena(config: DictConfig, folder: Path) -> Mapping[str, Any] | None:
    """Run one method in one problem, unless the same config finished in this folder, or draw a sweep's results."""
    import torch

    from flowport.cache import write_atomically
    from flowport.problem.arena import duel, training_free
    from flowport.run.build import make
    from flowport.run.config_checks import check_kind, check_values
    from flowport.run.run_folder import RunFolder
    from flowport.run.trainer_options import check_trainer, lightning_options, refuse_several

    check_values(config)
    check_kind("strength", config.strength, float)
    check_kind("steps_per_rollout", config.steps_per_rollout, int | None, 1)
    check_trainer(config.trainer)
    refuse_several(config.trainer, "a duel of the arena")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.draw is not None:
        _draw_duels(Path(config.draw))
        return None
    here, text = RunFolder(folder), OmegaConf.to_yaml(config, resolve=True)
    if not (here.finished and here.duel.is_file() and here.duel.read_text() == text):
        task: Callable[..., dict[str, float]] = duel
        parts, plain = list(DUEL_PARTS), ["ema_decay", "fresh", "steps_per_rollout", "pretraining"]
        if config.get("solver") is not None:
            task, parts, plain = training_free, ["problem", "solver"], []
        nodes = {**{p: config[p] for p in parts}, "trainer": lightning_options(config.trainer)}
        here.metrics.unlink(missing_ok=True)  # of another duel in the same folder
        plain += ["strength", "seed", "points"]
        here.write_metrics(task(**{p: make(nodes[p]) for p in parts}, **{p: config[p] for p in plain}))
        write_atomically(here.duel, lambda path: path.write_text(text))
    return here.read_metrics()


def _draw_duels(folder: Path) -> None:
    """Draw the table and the picture of a sweep of duels."""
    from flowport.problem.arena import draw, results
    from flowport.run.build import make
    from flowport.run.run_folder import RunFolder, finished_runs

    RunFolder(folder).check_links()
    runs = results([(job.overrides(), job.read_metrics()) for job in finished_runs(folder)])
    known = {path.stem for path in (configs() / "problem").glob("*.yaml")}
    if unknown := {r.problem for r in runs} - known:
        raise FlowportError(f"draw={folder} names the problem {min(unknown)}: choose {', '.join(sorted(known))}")
    problems = {name: make(composed("arena", [f"problem={name}"]).problem) for name in {r.problem for r in runs}}
    try:
        print(draw(runs, problems, folder))
    except KeyError as error:
        raise FlowportError(f"the duels in {folder} lack the number {error}: they did not finish") from None


TASKS: dict[str, Task] = {
    "train": _train,
    "finetune": _finetune,
    "reflow": _reflow,
    "evaluate": _evaluate,
    "translate": _translate,
    "likelihood": _likelihood,
    "arena": _arena,
}
"""The commands that Hydra composes from ``configs/<command>.yaml``."""


def _resume(folder: Path, overrides: list[str], trust: bool) -> None:
    """Continue a run in place."""
    from flowport.evaluation.tables import table
    from flowport.run.resume_log import told_of
    from flowport.run.run_folder import RunFolder
    from flowport.run.stage import resume
    from flowport.run.sweep_job import finishing

    run = RunFolder(folder, trust)
    run.read_config()  # a lock would make a folder that does not exist
    run.check_links()
    with said_how_to_go_on(folder), finishing(run, not overrides), run.locked(), told_of(run):
        print(table(resume(run, overrides), title=str(folder)))


def _tabulate(arguments: list[str]) -> None:
    """Read the finished runs of a sweep, print and write the table."""
    parser = argparse.ArgumentParser("flowport tabulate", description="A sweep as one table.")
    parser.add_argument("folder", type=Path, help="the folder that a multirun wrote")
    parser.add_argument("--metrics", nargs="*", default=[], help="columns, for instance w2 npe; default: all of test/")
    parser.add_argument("--against", nargs="+", default=[], help="draw the metrics over these: nfe train/seconds")
    parser.add_argument("--pivot", nargs=2, default=[], metavar="OVERRIDE", help="matrices over two overrides")
    parser.add_argument("--baseline", default="best", help="what differences are from: best, or the first setting")
    given = parser.parse_args(arguments)
    with report_errors():
        from flowport.run.tabulating import TableOptions, write_tables

        columns, costs, two = tuple(given.metrics), tuple(given.against), tuple(given.pivot)
        print(write_tables(given.folder, TableOptions(columns, costs, two, given.baseline)))


def _plot_weighting(arguments: list[str]) -> None:
    """Draw a run's loss weight over the log-SNR beside every configs/weighting that states a w(λ)."""
    parser = argparse.ArgumentParser("flowport plot_weighting", description="Loss weights over the log-SNR.")
    parser.add_argument("overrides", nargs="*", help="a run as train takes it; default: linear path, uniform times")
    parser.add_argument("--out", type=Path, default=Path("outputs/weightings.png"), help="where the picture goes")
    given = parser.parse_args(arguments)
    with report_errors():
        if given.out.is_dir():
            raise FlowportError(f"--out {given.out} is a folder: give the picture's file")
        if any(word.startswith("run=") for word in given.overrides):
            raise FlowportError("plot_weighting reads no run: give the words that a run was trained with")
        from hydra import compose, initialize_config_dir

        from flowport.evaluation import weighting_plot
        from flowport.run.build import Parts, check, flow_of, make

        groups = Groups(configs(), "train")
        check_words(given.overrides, groups)
        with explained(groups), initialize_config_dir(str(configs().resolve()), version_base="1.3"):
            run = compose("train", ["experiment=none", *given.overrides])
            names = sorted(path.stem for path in (configs() / "weighting").glob("*.yaml"))
            members = {name: compose(f"weighting/{name}").weighting for name in names}
        check(run)
        flow = flow_of(run, Parts())[0]
        curves = {"this run": weighting_plot.computed_curve(flow.objective, flow.field)}
        curves |= weighting_plot.defined_curves({name: make(node) for name, node in members.items()})
        given.out.parent.mkdir(parents=True, exist_ok=True)
        weighting_plot.draw(curves, given.out)
        print(given.out)


def in_hydra_grammar(words: list[str]) -> list[str]:
    """Arguments with flags first, as Hydra's parser wants them, and with quotes around paths that hold its punctuation.

    Of a sweep, a comma stands between two paths, also within ``choice(…)``; one within a path takes the user's quotes.

    Args:
        words: As the user wrote them.
    """
    flags = [word for word in words if word in ("-m", "--multirun")]

    def written(word: str) -> str:
        key, equal, value = word.partition("=")
        if key == "reward":
            value = in_one_word(value)
            return f"{key}={value if flags else _quoted(value)}"
        if not equal or "${" in value or not (key in PATHS or key.endswith((".path", ".reference"))):
            return word
        if not flags or key.startswith("hydra."):
            return f"{key}={_quoted(value)}"
        several = re.fullmatch(r"choice\((.*)\)", value)
        paths = re.findall(PATH, several[1] if several else value)
        text = ",".join(map(_quoted, paths))
        return f"{key}=choice({text})" if several else f"{key}={text}"

    return [*flags, *(written(word) for word in words if word not in flags)]


def _quoted(path: str) -> str:
    """A path in quotes where it holds punctuation of Hydra's grammar; lists and what has quotes stay as they are."""
    if re.fullmatch(r"[^=,:{}()\[\]\s'\"\\]*", path) or path[:1] in "'\"[":
        return path
    return "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_sweep_name(words: list[str], name: str) -> list[str]:
    """Words of a user's own sweep with a folder that is named after the experiment and what is swept.

    A named sweep finds the number of its words, by which the same command again finds its folder, in its environment.
    """
    pairs = dict(word.partition("=")[::2] for word in words if "=" in word)
    os.environ["FLOWPORT_SWEEP"] = number = _number_of(words, name)
    own = {"-m", "--multirun"} & set(words) and not {"sweep", "hydra.sweep.dir"} & set(pairs)
    if not own or name != "train":
        return words
    swept = [key for key, value in pairs.items() if "," in re.sub(r"\[.*?\]|'.*?'", "", value) or "(" in value]
    title = "_".join([pairs.get("experiment", "own"), *(["over", *swept] if swept else [])])
    title = re.sub(r"[^\w.-]", "-", title)[:80]
    return [*words, f"hydra.sweep.dir=outputs/sweep/{title}/{number}"]


def _number_of(words: list[str], name: str) -> str:
    """8 hex digits of the words of a sweep in their order, without those that say where and how it runs."""
    places = (
        *("-m", "--multirun", "jobs=", "restart=", "hydra/launcher=", "hydra.launcher.", "+hydra.launcher."),
        "hydra.sweeper.n_trials=",  # with more of them the same search goes on
    )
    kept = [name, *(word for word in words if not word.startswith(places))]
    return blake2b("\0".join(kept).encode(), digest_size=4).hexdigest()


def command(name: str) -> None:
    """Run one command with the arguments in ``sys.argv[1:]``; of processes that torchrun started, one reads them.

    Args:
        name: A key of ``TASKS``, ``"tabulate"`` or ``"plot_weighting"``.
    """
    place = here()
    if place is None:
        _command(name)
        return
    from flowport.run.rank_entry import follow
    from flowport.run.rank_launch import Lead

    if place.rank:
        follow(place)
        return
    with Lead():
        _command(name)


def _command(name: str) -> None:
    arguments = sys.argv[1:]
    if name in ("tabulate", "plot_weighting"):
        (_tabulate if name == "tabulate" else _plot_weighting)(arguments)
        return
    runs = [word for word in arguments if word.startswith("run=")]
    if name == "train" and runs and runs[-1] != "run=null":
        with report_errors():
            trusted = [word for word in arguments if word in ("trust=true", "trust=false")]
            words = [word for word in arguments if word not in (*runs, *trusted)]
            _resume(Path(runs[-1].removeprefix("run=")), words, trusted[-1:] == ["trust=true"])
        return
    sys.argv[1:] = in_hydra_grammar(_with_sweep_name(arguments, name))
    launch(TASKS[name], configs(), name)


def main() -> None:
    """The console script ``flowport``."""
    names = [*TASKS, "tabulate", "plot_weighting"]
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    name = sys.argv[1]
    if name in ("-V", "--version"):
        print(f"flowport {__version__}")
        return
    if name not in names:
        sys.stderr.write(f"flowport: {name} is no command: choose {', '.join(names)}\n")
        raise SystemExit(2)
    sys.argv = [f"flowport {name}", *sys.argv[2:]]
    command(name)
