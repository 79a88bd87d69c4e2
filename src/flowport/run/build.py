"""Build a run from its config: each part once, and only when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from flowport.cache import home
from flowport.data.agreement import agreed
from flowport.data.datamodule import PairDataModule
from flowport.data.normalisation import measured
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.evaluation.classifier_training import classifier_of
from flowport.evaluation.evaluator import Evaluator
from flowport.field import Field
from flowport.field.guidance import Guidance, Unguided
from flowport.finetuning.trajectories import Trajectories
from flowport.metric.base import Metric
from flowport.network.classifier import Classifier
from flowport.objective import Objective
from flowport.randomness import Randomness
from flowport.reward import DecodedReward, Reward, adapted
from flowport.run.config_checks import check_keys, check_kind, check_parts, check_values
from flowport.run.run_folder import RunFolder, check_fits
from flowport.run.sound_settings import settle
from flowport.run.trainer_options import check_trainer
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import FeynmanKac, Solver
from flowport.training.averaging import AveragedModule
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule, tilted
from flowport.training.flow_module import FlowModule

make = instantiate
"""Build one node of a config."""

PARTS = (
    "pairing",
    "coupling",
    "path",
    "prediction",
    "conditioning",
    "network",
    "objective",
    "optimizer",
    "scheduler",
    "data",
)
"""The nodes of a config that ``compose`` joins."""

Part = TypeVar("Part")


@dataclass
class Parts:
    """What several runs of one command share, so that it is built once: data sets, their classifier, and rewards.

    Args:
        built: Kind and node -> what was built of it.
        remembered: Sides that are not built of their data, by name.
    """

    built: dict[str, Any] = field(default_factory=dict)
    remembered: dict[str, Distribution] = field(default_factory=dict)

    def once(self, kind: str, node: Any, build: Callable[[], Part]) -> Part:
        """What ``build`` made of a node, from the second request on without building it.

        Args:
            kind: What is built, for instance ``"reward"``.
            node: The part of a config that determines it.
            build: Called where nothing was built of such a node.
        """
        key = _key(kind, node)
        if key not in self.built:
            self.built[key] = build()
        return self.built[key]

    def sides(self, config: DictConfig) -> tuple[Distribution, Distribution, dict[str, Any]]:
        """Source and target in the space of the flow, and facts about that space.

        Args:
            config: What its modalities leave null is measured and written into it.
        """
        if not self.remembered:
            settle(config)

        def build() -> tuple[tuple[Distribution, Distribution, dict[str, Any]], dict[str, dict[str, Any]]]:
            laws: dict[str, Distribution] = {
                side: self.remembered.get(side) or make(config[side]) for side in ("source", "target")
            }
            if self.remembered:  # in the space of the flow, with what was measured
                return (laws["source"], laws["target"], {}), {}
            laws["source"], laws["target"] = agreed(laws["source"], laws["target"])
            found = measured(**laws)
            for side, values in found.items():
                laws[side] = laws[side].encoded_by(make(OmegaConf.merge(config[side].modality, values)))
            return make(config.space).enter(laws["source"], laws["target"]), found

        def node() -> Any:
            return [OmegaConf.to_container(config[part], resolve=True) for part in ("source", "target", "space")]

        made, found = self.once("sides", node(), build)
        for side, values in found.items():
            config[side].modality.update(values)
        return self.once("sides", node(), lambda: (made, found))[0]

    def classifier(self, target: Distribution) -> tuple[Classifier, dict[str, float | str], str]:
        """The classifier of the target's dataset, its facts, and the dataset's name.

        Args:
            target: Trained on, where the cache does not hold the classifier.
        """
        return self.once("classifier", id(target), lambda: (classifier_of(target.observed(), classifiers()), target))[0]

    def reward(self, node: DictConfig, target: Distribution) -> Reward:
        """The reward of a config, for points as a flow to this target makes them.

        Args:
            node: The node ``reward`` of the config.
            target: The target of the flow.
        """
        reward = self.plain_reward(node)
        if isinstance(reward, partial):
            waiting = reward
            reward = self.once("reward", node, lambda: adapted(waiting(classifier=self.classifier(target)[0])))
        if target.modality.surface() is not target.modality and not reward.learnt:
            return DecodedReward(reward, target.modality)
        return reward

    def plain_reward(self, node: DictConfig) -> Any:
        """The reward of a config as its node builds it: a partial where it waits for a classifier.

        Args:
            node: The node ``reward`` of the config.
        """
        reward = self.once("plain reward", node, lambda: waiting_or_adapted(make(node)))
        if isinstance(reward, Reward) and reward.learnt:  # a round's own, which no other round may see
            self.built.pop(_key("plain reward", node))
        return reward


def waiting_or_adapted(made: Any) -> Any:
    """A partial that waits for a classifier as it is; a module or function of the user's as a reward.

    Args:
        made: What a node of rewards built.
    """
    return made if isinstance(made, partial) else adapted(made)


def _key(kind: str, node: Any) -> str:
    return f"{kind}: {OmegaConf.to_yaml(node, resolve=True) if isinstance(node, DictConfig) else node}"


def classifiers() -> Path:
    """The folder of the classifiers that metrics and rewards use."""
    return home() / "classifiers"


@dataclass
class Run:
    """A composed experiment; its sampler and metrics are built when they are first asked for.

    Args:
        config: What it was built from.
        module: The LightningModule.
        data: The datamodule.
        facts: What is known of its space and its classifier, reported with its numbers.
        parts: What it shares with other runs of the same command.
    """

    config: DictConfig
    module: AveragedModule
    data: PairDataModule
    facts: dict[str, Any]
    parts: Parts

    @cached_property
    def sampler(self) -> Sampler:
        """Solver, grid, volatility and guidance of the config.

        Raises:
            FlowportError: Where the field does not support them.
        """
        config, module = self.config, self.module
        guidance = guidance_of(config, module.source, module.target, self.parts)
        solver = solver_of(config, module.source, module.target, self.parts)
        sampler = Sampler(solver, make(config.grid), make(config.volatility), guidance)
        sampler.translator(module.field)
        return sampler

    @cached_property
    def evaluation(self) -> Evaluator:
        """The sampler and the metrics; a metric that is a partial gets the classifier of the target's dataset.

        Raises:
            FlowportError: Where the field does not support the sampler, before a classifier is trained, and where a
                metric cannot measure this pair of distributions.
        """
        sampler, module = self.sampler, self.module
        source, target = module.source.observed(), module.target.observed()
        nodes, metrics = make(self.config.get("metric") or {}), dict[str, Metric]()
        for node in nodes.values():
            if not isinstance(node, partial):  # before a classifier is trained for another metric
                node.check(source, target)
        for name, node in nodes.items():
            metric = node
            if isinstance(node, partial):
                classifier, facts, dataset = self.parts.classifier(module.target)
                self.facts.update({f"classifier/{key}": value for key, value in facts.items()})
                metric = node(classifier=classifier, name=dataset)
            metric.check(source, target)
            metric.check_condition(module.field.conditioning.shape(source, target))
            metrics[str(name)] = metric
        return Evaluator(sampler, metrics, self.config.evaluation_items)


def build(config: DictConfig, parts: Parts | None = None, base: RunFolder | None = None) -> Run:
    """The run of a config.

    Args:
        config: A composed config, or that of a run's folder.
        parts: What other runs of the same command have built.
        base: The run whose weights the last entry of ``config.tuning`` starts from; without it every weight is
            initial, for a checkpoint to fill.

    Raises:
        FlowportError: For options that do not exist and parts that do not fit together.
    """
    check(config)
    if config.get("threads") is not None:
        torch.set_num_threads(config.threads)
    parts = parts or Parts()
    flow, data, facts = flow_of(config, parts)
    entries = list(config.get("tuning") or [])
    module: AveragedModule = flow
    if entries:
        field = flow.ema
        for entry in entries[:-1]:
            field = tilted(field, make(entry.adapter), flow.source, flow.target)
        if base is not None:
            load_field(field, base, entries[-1].base.weights)
        module = tuned(flow, field, config, parts)
    return Run(config, module, data, dict(facts), parts)


def load_field(field: Field, folder: RunFolder, weights: str) -> None:
    """Fill a field with those of a run.

    Args:
        field: Of the same network.
        folder: The run.
        weights: ``"ema"`` or ``"raw"``.

    Raises:
        FlowportError: For weights of other names or shapes.
    """
    prefix = "field." if weights == "raw" else "ema."
    state = folder.read_checkpoint()["state_dict"]
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    check_fits(field, own, folder.checkpoint)
    field.load_state_dict(own)


def flow_of(config: DictConfig, parts: Parts) -> tuple[FlowModule, PairDataModule, dict[str, Any]]:
    """The flow of a config, its data, and facts about its space.

    Args:
        config: A composed config.
        parts: What other runs of the same command have built.

    Raises:
        FlowportError: For a method of fine-tuning in the place of an objective.
    """
    source, target, facts = parts.sides(config)
    made = {part: make(config.get(part)) for part in PARTS}
    if not isinstance(made["objective"], Objective):
        raise FlowportError(
            "this objective tunes a trained flow: use flowport finetune run=<folder>, or train one by "
            "objective=flow_matching"
        )
    flow, data = compose(source, target, **made, ema_decay=config.ema_decay, seed=config.seed)
    flow.capture = bool(config.get("capture", True))
    return flow, data, facts


def tuned(flow: FlowModule, base: Field, config: DictConfig, parts: Parts) -> FineTuneModule:
    """The last entry of ``config.tuning`` upon a field.

    Args:
        flow: Of which source and target are used.
        base: The field that is tuned.
        config: A composed config.
        parts: What other runs of the same command have built.
    """
    entries = config.tuning
    last = entries[-1]
    module = FineTuneModule(
        flow.source,
        flow.target,
        base,
        make(last.adapter),
        make(last.method),
        parts.reward(last.reward, flow.target),
        last.strength,
        make(config.optimizer),
        make(config.scheduler),
        Randomness(config.seed).under(f"tuning {len(entries)}"),
        config.ema_decay,
        config.get("rows"),
        bool(config.get("checkpointing", False)),
        Trajectories(**(config.get("trajectories") or {})),
    )
    module.capture, module.says_peak = flow.capture, True
    return module


def guidance_of(config: DictConfig, source: Distribution, target: Distribution, parts: Parts) -> Guidance:
    """What is applied to the config's field before it is sampled.

    Args:
        config: A composed config; one without the key is unguided.
        source: The source of the flow.
        target: Its target.
        parts: What other runs of the same command have built.

    Raises:
        FlowportError: For a guidance that needs a reward, without one.
    """
    node = config.get("guidance")
    if node is None:
        return Unguided()
    if "reward" not in node:
        return make(node)
    return partial(make(node), reward=_sampling_reward("guidance", config, source, target, parts))


def solver_of(config: DictConfig, source: Distribution, target: Distribution, parts: Parts) -> Solver:
    """The solver of a config, with the reward where it samples by one.

    Args:
        config: A composed config.
        source: The source of the flow.
        target: Its target.
        parts: What other runs of the same command have built.

    Raises:
        FlowportError: For a solver that needs a reward, without one.
    """
    solver: Solver = make(config.solver)
    if not isinstance(solver, FeynmanKac):
        return solver
    return solver.given(_sampling_reward("solver", config, source, target, parts))


SAMPLED_BY_REWARD = {"guidance": "guidance=reward", "solver": "solver=feynman_kac"}
"""Parts of a config that may sample by its reward, and what the command line calls those that do."""


def _sampling_reward(part: str, config: DictConfig, source: Distribution, target: Distribution, parts: Parts) -> Reward:
    """The reward of a config that is sampled by it, checked for its points."""
    if config.get("reward") is None:
        raise FlowportError(
            f"{SAMPLED_BY_REWARD[part]} needs a reward: write reward=<name>, for instance reward=legibility, with "
            "flowport evaluate or translate"
        )
    reward = parts.reward(config.reward, target)
    reward.check(source, target)
    return reward


def checked_config(folder: RunFolder) -> DictConfig:
    """The config of a run, checked.

    Args:
        folder: The run's.

    Raises:
        FlowportError: Naming the file, for a config that was edited into one of no run.
    """
    config = folder.read_config()
    try:
        check(config)
        check_kind("stage", config.get("stage"), dict)
    except FlowportError as error:
        raise FlowportError(f"{folder.config}: {error}") from None
    return config


def check_optimizer(config: DictConfig) -> None:
    """Check the options of the optimiser and the scheduler by building both for a parameter of no network.

    Args:
        config: A config with their nodes.

    Raises:
        FlowportError: For an option that torch refuses.
    """
    part = "optimizer"
    try:
        optimizer = make(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        part = "scheduler"
        if config.get("scheduler") is not None:
            make(config.scheduler)(optimizer, config.trainer.max_steps)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, FlowportError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise FlowportError(f"{part} cannot be built from its options {_options(config[part])}: {reason}") from None


def _options(node: DictConfig) -> dict[str, Any]:
    return {str(k): v for k, v in OmegaConf.to_container(node, resolve=True).items() if not str(k).startswith("_")}  # type: ignore[union-attr]


def check(config: DictConfig) -> None:
    """Check the options of a run.

    Args:
        config: A composed config.

    Raises:
        FlowportError: For an option that does not exist, or a value of the wrong kind or size.
    """
    check_parts(config)
    check_keys(config)
    check_trainer(config.trainer)
    check_values(config)
    check_optimizer(config)
    if config.get("reward") is not None and not any("reward" in (config.get(k) or {}) for k in SAMPLED_BY_REWARD):
        raise FlowportError(
            "reward=… has no effect on this run without guidance=reward or solver=feynman_kac: leave it out, or add one"
        )
