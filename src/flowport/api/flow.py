"""A trained flow in memory, and its two files on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowport import __version__
from flowport.api.members import Points, member
from flowport.api.saving import (
    Description,
    describe,
    describe_learned,
    describe_tilted,
    rebuilt,
    rebuilt_field,
)
from flowport.api.tuned import Tuning
from flowport.cache import write_atomically
from flowport.distribution import Gaussian
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, printable
from flowport.field import Field, LearnedField
from flowport.finetuning.certificate import Certificate
from flowport.finetuning.tilted_field import TiltedField
from flowport.modality import Modality
from flowport.run.run_folder import LAYOUT, read_json
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.translator import Translator
from flowport.types import Condition, EventShape, Sample


@dataclass
class Flow:
    """A trained flow: translate, sample, velocity, score and likelihood.

    Args:
        field: The averaged velocity field.
        event_shape: D, the shape of one point.
        source: The source distribution; None for a loaded flow whose source is not Gaussian noise.
        target: The target distribution; None for a loaded flow.
        modality: How points are encoded and shown.
        description: What the field is made of, for ``save``; None for a field that cannot be saved.
        class_names: Names of the target's classes, which ``label`` may be; empty where classes are numbers.
        seed: Of all that is drawn.
        tuning: Measures ``rewards`` and ``certificate`` of a fine-tuning; None for any other flow.
    """

    field: Field
    event_shape: EventShape
    source: Distribution | None
    target: Distribution | None
    modality: Modality
    description: Description | None
    class_names: tuple[str, ...] = ()
    seed: int = 0
    tuning: Tuning | None = None

    @cached_property
    def rewards(self) -> Mapping[str, float]:
        """The mean reward of results before and after fine-tuning, from the same held-out starts, with standard errors.

        ``before``, ``after``, ``gain`` in units of r, unweighted by the strength, each with ``_se``; of several rewards
        also ``<name>_before`` and so on of each. Measured when it is first read.

        Raises:
            FlowportError: For a flow that was not made by ``fp.finetune`` in this process.
        """
        return self._tuning.rewards()

    @cached_property
    def certificate(self) -> Certificate:
        """How far the flow is from the tilt it was fine-tuned to: ``values``, ``errors``, ``withheld``, ``sentence``.

        In nats KL(tuned‖tilt), KL(tilt‖tuned) and KL(tuned‖base), the share of the tilt's gain and mean rewards of the
        three, each with its standard error or the reason why it is not stated (``finetuning.certificate``). A mode of
        the tilt that neither flow visits is in none of them. Measured when it is first read, from 512 paths of either
        flow and 40 steps.

        Raises:
            FlowportError: For a flow that was not made by ``fp.finetune`` in this process.
        """
        return self._tuning.certificate()

    @property
    def _tuning(self) -> Tuning:
        if self.tuning is None:
            raise FlowportError("this flow knows no reward: only what fp.finetune returns does, until it is saved")
        return self.tuning

    def _translator(self, solver: Any, steps: int, volatility: Any) -> Translator:
        return Translator(self.field, member("solver", solver), UniformGrid(steps), member("volatility", volatility))

    def _encoded(self, x: Any) -> Tensor:
        x = torch.as_tensor(x)
        x = self.modality.encode(x, None) if x.dtype == torch.uint8 else x.float()
        if tuple(x.shape[1:]) != tuple(self.event_shape):
            raise FlowportError(f"points have shape {tuple(x.shape[1:])}, but this flow takes {self.event_shape}")
        return x

    def _times(self, t: float | Tensor, x: Tensor) -> Tensor:
        return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))

    def translate(
        self,
        x: Points,
        *,
        solver: Any = "heun",
        steps: int = 20,
        trajectory: bool = False,
        label: int | str | Tensor | None = None,
        volatility: Any = "zero",
        backward: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Carry source points to the target by the ODE, or by the SDE where the volatility is above zero.

        Args:
            x: Source points (N, *D); target points where ``backward`` is true.
            solver: A solver of ``flowport.sampling.solver``.
            steps: Steps of the uniform time grid.
            trajectory: Return all states, (steps + 1, N, *D), instead of the end.
            label: The wanted class, its name, or (N,) classes, for flows conditioned on labels.
            volatility: A volatility g(t) of ``flowport.sampling.volatility``.
            backward: From target to source.
            seed: Of the noise; by default the flow's.

        Returns:
            Translated points (N, *D).

        Raises:
            FlowportError: For points of another shape, and for a sampler that the field cannot serve.
        """
        x = self._encoded(x)
        if isinstance(label, str):
            if label not in self.class_names:
                raise FlowportError(f"label={label} is no class of this flow: {', '.join(self.class_names) or 'none'}")
            label = self.class_names.index(label)
        wanted = None if label is None else torch.as_tensor(label, device=x.device).expand(len(x))
        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        translator = self._translator(solver, steps, volatility)
        move = translator.backward if backward else translator.forward
        found = move(Sample(x), generator, wanted, all_states=trajectory)
        return found.states if trajectory else found.end

    def sample(self, n: int, *, solver: Any = None, steps: int = 50, volatility: Any = "zero", **more: Any) -> Tensor:
        """Draw n points of the target, from n fresh draws of the source.

        Args:
            n: Number of points.
            solver: By default heun for the ODE and euler_maruyama for an SDE.
            steps: Steps of the uniform time grid.
            volatility: For instance ``"memoryless"``.
            **more: As for ``translate``.

        Raises:
            FlowportError: For a loaded flow whose source is stored data: translate points instead.
        """
        if self.source is None:
            raise FlowportError("a loaded flow does not hold its source's data: use translate(x) with points of yours")
        start = self.source.sample(n, torch.Generator().manual_seed(more.get("seed", self.seed) + 1)).x
        chosen = solver or ("euler_maruyama" if member("volatility", volatility).stochastic else "heun")
        return self.translate(start, solver=chosen, steps=steps, volatility=volatility, **more)

    @torch.no_grad()
    def velocity(self, x: Points, t: float | Tensor, condition: Condition | None = None) -> Tensor:
        """Velocity v(x, t) = E[ẋ_t | x_t = x], (N, *D).

        Args:
            x: Points (N, *D).
            t: Times in [0, 1], a number or (N,).
            condition: For flows that are conditioned on a label or their source.
        """
        x = self._encoded(x)
        return self.field.velocity(x, self._times(t, x), condition or Condition())

    @torch.no_grad()
    def score(self, x: Points, t: float | Tensor, condition: Condition | None = None) -> Tensor:
        """Score ∇ log p_t(x), (N, *D).

        Args:
            x: Points (N, *D).
            t: Times in [0, 1], a number or (N,).
            condition: For flows that are conditioned on a label or their source.

        Raises:
            FlowportError: Where the flow has no score, naming what to change.
        """
        x = self._encoded(x)
        self.field.capabilities.require_score("score")
        return self.field.score(x, self._times(t, x), condition or Condition())

    def log_prob(self, x: Points, *, solver: Any = "rk4", steps: int = 50) -> Tensor:
        """Log-likelihood log p1(x) in nats, (N,), by the instantaneous change of variables.

        Args:
            x: Points of the target (N, *D).
            solver: An ODE solver.
            steps: Steps of the uniform time grid.

        References:
            Chen et al. 2018, "Neural ordinary differential equations", arXiv:1806.07366, Theorem 1.

        Raises:
            FlowportError: Where the source has no density.
        """
        if self.source is None:
            raise FlowportError("a likelihood needs a source with a density: fit a flow from fp.Gaussian")
        model = Likelihood(self.field, self.source, member("solver", solver), UniformGrid(steps), ExactDivergence())
        return model.log_prob(Sample(self._encoded(x)), torch.Generator().manual_seed(self.seed))[0]

    def save(self, folder: str | FilePath) -> None:
        """Write ``flow.safetensors`` and ``config.json``; the training data are not needed to load them.

        Args:
            folder: Made where it does not exist.

        Raises:
            FlowportError: For a field that no description can rebuild.
        """
        if self.description is None:
            raise FlowportError(
                f"a flow with a {type(self.field).__name__} cannot be saved: save a flow that fp.fit made"
            )
        place = FilePath(folder)
        place.mkdir(parents=True, exist_ok=True)
        config = {
            "flowport": __version__,
            "layout": LAYOUT,
            "event_shape": list(self.event_shape),
            "noise_source": bool(self.source is not None and self.source.standard_gaussian),
            "class_names": list(self.class_names),
            "modality": describe(self.modality),
            "field": self.description,
        }
        weights = {name: value.detach().cpu().clone().contiguous() for name, value in self.field.state_dict().items()}
        write_atomically(place / "flow.safetensors", lambda path: save_file(weights, path))
        write_atomically(place / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))


def load(folder: str | FilePath, *, trust: bool = False, **objects: Any) -> Flow:
    """Load a flow that ``Flow.save`` wrote, or a run folder; runs no code of the folder's.

    Args:
        folder: The folder.
        trust: Whether the config of a run folder may build any class and run any TorchScript program.
        **objects: Parts that its config cannot name, for instance ``network=my_module``.

    Raises:
        FlowportError: For a folder without a flow, weights of another shape, and a part that must be given.
    """
    place = FilePath(folder)
    if (place / ".hydra").is_dir():
        return _load_run(place, trust)
    try:
        config = read_json(place / "config.json")
        if not (place / "flow.safetensors").is_file():
            raise FlowportError("flow.safetensors is no regular file")
        weights = load_file(place / "flow.safetensors")
        layout, shape = config["layout"], tuple(int(n) for n in config["event_shape"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        reason = printable(str(error).splitlines()[0])
        raise FlowportError(f"{place} holds no flow, or a damaged one: {reason}") from None
    if layout != LAYOUT:
        version = printable(f"{config.get('flowport')!s:.40}")
        raise FlowportError(f"{place} was written by flowport {version}, which {__version__} does not read")
    try:
        field = rebuilt_field(config["field"], shape, objects)
        modality = rebuilt("modality", config["modality"], objects.get("modality"))
        noise, names = bool(config["noise_source"]), tuple(map(str, config["class_names"]))
    except (KeyError, TypeError, AttributeError, MemoryError, OverflowError, RuntimeError) as error:
        raise FlowportError(f"{place}/config.json describes no flow: {error!s:.100}") from None
    try:
        field.load_state_dict(weights)
    except RuntimeError as error:
        raise FlowportError(f"{place}/flow.safetensors does not fit: {str(error).splitlines()[-1].strip()}") from None
    source, field = Gaussian(event_shape=shape) if noise else None, field.eval().requires_grad_(False)
    return Flow(field, shape, source, None, modality, config["field"], names)


def _load_run(folder: FilePath, trust: bool) -> Flow:
    """The averaged flow of a run folder, with its source and target."""
    from flowport.run.build import make
    from flowport.run.restore import restore
    from flowport.run.run_folder import RunFolder

    run = restore(RunFolder(folder, trust))
    module, fields = run.module, [run.module.ema]
    while isinstance(fields[-1], TiltedField):
        fields.append(fields[-1].base)
    description: Description | None = None
    if isinstance(fields[-1], LearnedField):
        description = describe_learned(fields[-1], make(run.config.network))
        for entry in run.config.get("tuning") or []:
            condition = fields[-1].conditioning.shape(module.source, module.target)
            description = describe_tilted(description, make(entry.adapter), condition)
    return flow_of(module.ema, (module.source, module.target), description, run.config.seed)


def flow_of(field: Field, sides: tuple[Distribution, Distribution], description: Description | None, seed: int) -> Flow:
    """A flow of a trained field.

    Args:
        field: Trained.
        sides: Source and target.
        description: What the field is made of.
        seed: Of all that is drawn.
    """
    source, target = sides
    field, names = field.eval().requires_grad_(False), tuple(target.class_names)
    return Flow(field, tuple(target.event_shape), source, target, target.modality, description, names, seed)
