"""Flows from Python: fit, translate, sample, fine-tune, save and load without a config.

Everything here composes the same parts that the configs name. Each part may be given as its config name
(``"linear"``), as its class, as an instance, or, for networks, paths and rewards, as a plain module or function.
"""

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path as FilePath
from typing import Any

import torch
from lightning import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowport import __version__, capabilities
from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.coupling import Coupling
from flowport.data.pairing import UnpairedPairing
from flowport.data.placement import StreamingPlacement
from flowport.distribution import Gaussian
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.parts import divide
from flowport.errors import FlowportError, member_name
from flowport.field import Field, LearnedField
from flowport.finetuning.adapter import ControlAdapter
from flowport.finetuning.method import FineTuningMethod, PathWeighted
from flowport.finetuning.tilted_field import TiltedField
from flowport.modality import FloatImage, Image, Modality, Plane
from flowport.network import Network
from flowport.path import FunctionsPath, Path
from flowport.prediction import Prediction
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.run.run_folder import LAYOUT
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.dynamics import Process
from flowport.sampling.grid import Grid, UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.sampling.solver import Solver
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import Volatility
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from flowport.training.fitting import train_in_memory
from flowport.training.scheduler import CosineScheduler
from flowport.types import Condition, ConditionShape, EventShape, Pair, Sample

Points = Any
"""A tensor or array (N, *D), a file or folder, a torch dataset, or a flowport distribution."""

FAMILIES: dict[str, tuple[str, type]] = {
    "coupling": ("flowport.coupling", Coupling),
    "path": ("flowport.path", Path),
    "prediction": ("flowport.prediction", Prediction),
    "conditioning": ("flowport.conditioning", Conditioning),
    "network": ("flowport.network", Network),
    "solver": ("flowport.sampling.solver", Solver),
    "grid": ("flowport.sampling.grid", Grid),
    "volatility": ("flowport.sampling.volatility", Volatility),
    "method": ("flowport.finetuning.method", FineTuningMethod),
    "reward": ("flowport.reward", Reward),
    "modality": ("flowport.modality", Modality),
}
"""Family -> its module and base class."""


def member(family: str, word: Any) -> Any:
    """The part that a word names.

    Args:
        family: A key of ``FAMILIES``.
        word: A config name, a class of the family, or an instance, which is returned as it is.

    Returns:
        An instance; for ``network`` a class or partial, which is finished with the shapes of the flow.

    Raises:
        FlowportError: For a name that the family does not have.
    """
    module, base = FAMILIES[family]
    if isinstance(word, str):
        classes = [c for c in vars(import_module(module)).values() if inspect.isclass(c) and issubclass(c, base)]
        known = {member_name(c, family): c for c in classes if not inspect.isabstract(c)}
        if word not in known:
            raise FlowportError(f"{family}={word} does not exist: choose {', '.join(sorted(known))}")
        word = known[word]
    if family == "network":
        return word
    return word() if inspect.isclass(word) else word


class PlainNetwork(Network):
    """A user's own module f(x, t) as a network; x (B, *D), t (B,)."""

    def __init__(self, event_shape: EventShape, condition: ConditionShape, heads: int, module: nn.Module) -> None:
        super().__init__(event_shape, condition, heads)
        if condition != ConditionShape():
            raise FlowportError("a plain network f(x, t) sees no condition: write a flowport.network.Network instead")
        self.module = module

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The module's own output at (x, t), (B, heads·C, *rest)."""
        return self.module(x, t)


class FunctionReward(Reward):
    """A user's function r(x1) -> (B,) as a reward, in nats."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """r(x1), (B,)."""
        return self.function(x1)


class FunctionProcess(Process):
    """The ODE dX = v(X, t) dt of a plain function v(x, t), x (B, *D), t (B,)."""

    stochastic = False

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = velocity

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """v(x, t), (B, *D)."""
        self.evaluations += 1
        return self.function(x, t)

    def diffusion(self, t: Tensor) -> Tensor:
        """0: an ODE."""
        return torch.zeros_like(t)


def distribution(points: Points, name: str) -> Distribution:
    """The distribution of a user's points.

    Args:
        points: See ``Points``. Tensors are split 80/10/10 into training, validation and test by a fixed seed.
        name: What messages call it: ``"source"`` or ``"target"``.

    Raises:
        FlowportError: For anything else, too few items, NaN and infinity.
    """
    if isinstance(points, Distribution):
        return points
    if isinstance(points, str | FilePath):
        return _from_disk(FilePath(points), name)
    labels: Tensor | None = None
    if isinstance(points, torch.utils.data.Dataset):
        items = [points[k] for k in range(len(points))]  # type: ignore[arg-type]
        if isinstance(items[0], tuple | list):
            labels = torch.as_tensor([item[1] for item in items])
            items = [item[0] for item in items]
        points = torch.stack([torch.as_tensor(item) for item in items])
    raw = torch.as_tensor(points)
    if raw.ndim < 2 or len(raw) < 10:
        raise FlowportError(f"the {name} has shape {tuple(raw.shape)}: give at least 10 points, (N, *D)")
    modality: Modality = Image() if raw.dtype == torch.uint8 else FloatImage() if raw.ndim == 4 else Plane()
    tenth = max(1, len(raw) // 10)
    classes = 0 if labels is None else int(labels.max()) + 1
    splits = divide(len(raw), tenth, tenth, labels)
    return Stored(name, raw if raw.dtype == torch.uint8 else raw.float(), labels, modality, splits, classes=classes)


def _from_disk(path: FilePath, name: str) -> Distribution:
    """A file of one array, or a folder of pictures, recordings or shapes."""
    from flowport.distribution import AudioFolder, CloudFolder, ImageFolder, TensorFile

    if path.is_file():
        return TensorFile(str(path))
    suffixes = {p.suffix.lower() for p in path.rglob("*") if p.is_file()}
    kinds: dict[str, tuple[set[str], Callable[[str], Distribution]]] = {
        "recordings": ({".wav", ".flac", ".ogg"}, AudioFolder),
        "shapes": ({".ply", ".obj", ".stl", ".off", ".npy", ".npz"}, CloudFolder),
        "pictures": ({".png", ".jpg", ".jpeg", ".webp"}, ImageFolder),
    }
    found = [kind for kind, (endings, _) in kinds.items() if suffixes & endings]
    if len(found) != 1:
        held = " and ".join(found) or "no pictures, recordings or shapes"
        raise FlowportError(f"{name}={path} holds {held}: give a file, or a folder of one kind")
    return kinds[found[0]][1](str(path))


@dataclass
class Flow:
    """A trained flow: translate, sample, velocity, score and likelihood.

    Attributes:
        field: The averaged velocity field.
        event_shape: D, the shape of one point.
        source: The source distribution; None for a loaded flow whose source is not Gaussian noise.
        target: The target distribution; None for a loaded flow.
        modality: How points are encoded and shown.
        network: The description of the network, or None for a network that no config can name.
        seed: Of all that is drawn.
    """

    field: Field
    event_shape: EventShape
    source: Distribution | None
    target: Distribution | None
    modality: Modality
    network: dict[str, Any] | None
    seed: int = 0

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
        label: int | Tensor | None = None,
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
            label: The wanted class, or (N,) of them, for flows conditioned on labels.
            volatility: A volatility g(t) of ``flowport.sampling.volatility``.
            backward: From target to source.
            seed: Of the noise; by default the flow's.

        Returns:
            Translated points (N, *D).

        Raises:
            FlowportError: For points of another shape, and for a sampler that the field cannot serve.
        """
        x = self._encoded(x)
        wanted = None if label is None else torch.as_tensor(label, device=x.device).expand(len(x))
        generator = torch.Generator(x.device).manual_seed(self.seed if seed is None else seed)
        translator = self._translator(solver, steps, volatility)
        move = translator.backward if backward else translator.forward
        found = move(Sample(x), generator, wanted, keep=trajectory)
        return found.states if trajectory else found.end

    def sample(self, n: int, *, solver: Any = None, steps: int = 50, volatility: Any = "zero", **more: Any) -> Tensor:
        """n points of the target, from n fresh draws of the source.

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
        """v(x, t) = E[ẋ_t | x_t = x], (N, *D), at t in [0, 1], a number or (N,)."""
        x = self._encoded(x)
        return self.field.velocity(x, self._times(t, x), condition or Condition())

    @torch.no_grad()
    def score(self, x: Points, t: float | Tensor, condition: Condition | None = None) -> Tensor:
        """∇ log p_t(x), (N, *D).

        Raises:
            FlowportError: Where the flow has no score, naming what to change.
        """
        x = self._encoded(x)
        self.field.capabilities.require_score("score")
        return self.field.score(x, self._times(t, x), condition or Condition())

    def log_prob(self, x: Points, *, solver: Any = "rk4", steps: int = 50) -> Tensor:
        """log p1(x) in nats, (N,), by the instantaneous change of variables (Chen et al. 2018, arXiv:1806.07366).

        Raises:
            FlowportError: Where the source has no density.
        """
        if self.source is None:
            raise FlowportError("a likelihood needs a source with a density: fit a flow from fp.Gaussian")
        model = Likelihood(self.field, self.source, member("solver", solver), UniformGrid(steps), ExactDivergence())
        return model.log_prob(Sample(self._encoded(x)), torch.Generator().manual_seed(self.seed))[0]

    def save(self, folder: str | FilePath) -> None:
        """Write ``flow.safetensors`` and ``config.json``; the training data are not needed to load them."""
        place = FilePath(folder)
        place.mkdir(parents=True, exist_ok=True)
        config = {
            "flowport": __version__,
            "layout": LAYOUT,
            "event_shape": list(self.event_shape),
            "noise_source": bool(self.source is not None and self.source.standard_gaussian),
            "modality": _describe(self.modality),
            "field": _describe_field(self.field, self.network),
        }
        weights = {name: value.detach().cpu().clone().contiguous() for name, value in self.field.state_dict().items()}
        for name, write in (
            ("flow.safetensors", lambda p: save_file(weights, p)),
            ("config.json", lambda p: p.write_text(json.dumps(config, indent=2) + "\n")),
        ):
            written = place / f".{name}.{os.getpid()}"
            write(written)
            os.replace(written, place / name)


def _plain(value: Any) -> bool:
    """Whether JSON holds a value exactly."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _describe(part: object) -> dict[str, Any] | None:
    """Class and options of a part, None where an option is no plain value."""
    names = [p for p in inspect.signature(type(part).__init__).parameters if p not in ("self", "args", "kwargs")]
    options = {name: getattr(part, name) for name in names if name in vars(part)}
    if set(options) != set(names) or not all(map(_plain, options.values())):
        return None
    return {"class": type(part).__name__, "options": options}


def _rebuilt(family: str, described: Mapping[str, Any] | None, given: Any, key: str) -> Any:
    """The part of a description; only classes of the family are looked up. Raises FlowportError where it is missing."""
    if given is not None:
        return member(family, given)
    module, base = FAMILIES[family]
    found = None if described is None else vars(import_module(module)).get(str(described["class"]))
    if described is None or not (inspect.isclass(found) and issubclass(found, base)):
        raise FlowportError(f"this flow has a {family} that its config cannot name: write fp.load(folder, {key}=…)")
    return found(**described["options"])


def _describe_field(field: Field, network: dict[str, Any] | None) -> dict[str, Any]:
    """What a field is made of."""
    if isinstance(field, TiltedField):
        base = getattr(field.base, "described", None)
        return {"kind": "tilted", "base": base, "network": network}
    assert isinstance(field, LearnedField)
    shape = field.network.condition
    assert isinstance(shape, ConditionShape)
    return {
        "kind": "learned",
        "path": _describe(field.path),
        "prediction": _describe(field.prediction),
        "conditioning": _describe(field.conditioning),
        "condition": asdict(shape),
        "network": network,
        "role": type(field.capabilities.role).__name__,
        "score": field.capabilities.score,
    }


def _rebuilt_field(config: Mapping[str, Any], shape: EventShape, given: Mapping[str, Any]) -> Field:
    """The field of a description, with fresh weights."""
    if config["kind"] == "tilted":
        base = _rebuilt_field(config["base"], shape, given)
        condition = ConditionShape(**config["base"]["condition"])
        adapter = ControlAdapter(base, shape, condition, _network(config["network"], given.get("adapter_network")))
        return TiltedField(base, adapter)
    prediction = _rebuilt("prediction", config["prediction"], given.get("prediction"), "prediction")
    condition = ConditionShape(**config["condition"])
    role = vars(capabilities).get(str(config["role"]))
    if not (inspect.isclass(role) and issubclass(role, capabilities.NoiseRole)):
        raise FlowportError(f"config.json names the noise role {config['role']}, which does not exist")
    network = _network(config["network"], given.get("network"))
    field = LearnedField(
        network(event_shape=shape, condition=condition, heads=prediction.heads),
        _rebuilt("path", config["path"], given.get("path"), "path"),
        prediction,
        _rebuilt("conditioning", config["conditioning"], given.get("conditioning"), "conditioning"),
        Capabilities(role(), bool(config["score"])),
        condition.step,
    )
    field.described = dict(config)  # type: ignore[assignment]
    return field


def _network(described: Mapping[str, Any] | None, given: Any) -> Callable[..., Network]:
    """What builds the network: the user's own, or that of a description."""
    if given is not None:
        return partial(PlainNetwork, module=given) if isinstance(given, nn.Module) else member("network", given)
    found = None if described is None else vars(import_module("flowport.network")).get(str(described["class"]))
    if described is None or not (inspect.isclass(found) and issubclass(found, Network)):
        raise FlowportError("this flow has a network that its config cannot name: write fp.load(folder, network=…)")
    return partial(found, **described["options"])


def _named(make: Any) -> dict[str, Any] | None:
    """The description of a network's class or partial; None for one that no config can name."""
    options = make.keywords if isinstance(make, partial) else {}
    made = make.func if isinstance(make, partial) else make
    known = inspect.isclass(made) and vars(import_module("flowport.network")).get(made.__name__) is made
    return {"class": made.__name__, "options": dict(options)} if known and _plain(list(options.values())) else None


def _train(module: Any, data: Any, steps: int, device: str, progress: bool | None) -> None:
    """Train in memory and bring the module back to the CPU."""
    trainer = partial(Trainer, accelerator=device, devices=1, enable_model_summary=False)
    train_in_memory(trainer, module, data, steps, sys.stderr.isatty() if progress is None else progress)
    module.cpu()


def fit(
    source: Points,
    target: Points,
    *,
    steps: int = 2000,
    coupling: Any = None,
    path: Any = "linear",
    prediction: Any = "velocity",
    conditioning: Any = "unconditional",
    network: Any = None,
    batch: int = 256,
    lr: float = 1e-3,
    ema_decay: float = 0.999,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Flow:
    """Train a flow from a source to a target by flow matching.

    Args:
        source: See ``Points``; ``fp.Gaussian(d)`` for noise.
        target: Likewise.
        steps: Optimiser steps.
        coupling: By default independent from standard Gaussian noise, so that the flow has a score, and exact minibatch
            optimal transport otherwise; what was chosen is printed.
        path: Also three functions (alpha, beta, gamma or None) of t.
        prediction: What the network predicts.
        conditioning: What the network sees beside x and t.
        network: Also a module f(x, t); by default an MLP for vectors and a U-Net for images.
        batch: Pairs per step.
        lr: Learning rate of Adam, with a cosine schedule.
        ema_decay: Of the moving average, whose weights the flow uses.
        seed: Of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; by default in a terminal.

    Raises:
        FlowportError: For parts that do not fit together, with what to change.
    """
    sides = distribution(source, "source"), distribution(target, "target")
    noise = sides[0].standard_gaussian
    if coupling is None:
        coupling = "independent" if noise else "exact"
        why = "standard Gaussian noise: the flow has a score" if noise else "the source is no standard Gaussian noise"
        print(f"flowport: coupling={coupling} ({why})", file=sys.stderr)
    if isinstance(path, tuple | list):
        path = FunctionsPath(*path)
    if network is None:
        network = {1: "mlp", 3: "patch_unet"}.get(len(sides[1].event_shape), "set_transformer")
        if network == "mlp":
            network = partial(member("network", "mlp"), width=128)
    make = partial(PlainNetwork, module=network) if isinstance(network, nn.Module) else member("network", network)
    module, data = compose(
        *sides,
        pairing=UnpairedPairing,
        coupling=member("coupling", coupling),
        path=member("path", path),
        prediction=member("prediction", prediction),
        conditioning=member("conditioning", conditioning),
        network=make,
        optimizer=partial(torch.optim.Adam, lr=lr),
        scheduler=CosineScheduler,
        data=partial(_datamodule, batch=batch),
        ema_decay=ema_decay,
        seed=seed,
    )
    _train(module, data, steps, device, progress)
    return _flow(module.ema, sides, _named(make), seed)


def _datamodule(**parts: Any) -> Any:
    """Data that stay on the host, whatever their size."""
    from flowport.data.datamodule import PairDataModule

    return PairDataModule(placement=StreamingPlacement(), validation_items=parts["batch"], **parts)


def _flow(field: Field, sides: tuple[Distribution, Distribution], network: dict[str, Any] | None, seed: int) -> Flow:
    source, target = sides
    field = field.eval().requires_grad_(False)
    if not isinstance(field, TiltedField):
        field.described = _describe_field(field, network)  # type: ignore[assignment]
    return Flow(field, tuple(target.event_shape), source, target, target.modality, network, seed)


def finetune(
    flow: Flow,
    reward: Any,
    *,
    strength: float = 1.0,
    method: Any = None,
    network: Any = None,
    steps: int = 600,
    starts: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Flow:
    """Fine-tune a flow towards the tilted law p1(x) e^{strength · r(x)} / Z, with a network beside the frozen base.

    Args:
        flow: A flow from Gaussian noise with independent coupling, or a bridge that sees its start.
        reward: r(x1) -> (N,), in nats: a function, or a reward of ``flowport.reward``.
        strength: λ.
        method: By default the path-weighted adjoint method.
        network: Of the adapter; by default an MLP for vectors and a U-Net for images.
        steps: Optimiser steps.
        starts: Paths per rollout.
        lr: Learning rate of Adam.
        seed: Of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; by default in a terminal.

    Raises:
        FlowportError: For a flow whose tilt is not defined, with what to change, and for a reward that is not finite.
    """
    if flow.source is None:
        raise FlowportError("a loaded flow does not hold its source's data, where fine-tuning starts: fit it again")
    source = flow.source
    target = flow.target or Gaussian(event_shape=flow.event_shape)
    chosen = PathWeighted() if method is None else member("method", method)
    if not isinstance(reward, Reward) and not isinstance(reward, str):
        reward = FunctionReward(reward)
    default = "mlp" if len(flow.event_shape) == 1 else "patch_unet"
    make = member("network", network or default)
    randomness = Randomness(seed).under("fine-tuning")
    module = FineTuneModule(
        source,
        target,
        flow.field,
        partial(ControlAdapter, network=make),
        chosen,
        member("reward", reward),
        strength,
        partial(torch.optim.Adam, lr=lr),
        CosineScheduler,
        randomness,
    )
    from flowport.coupling import IndependentCoupling
    from flowport.data.datamodule import PairDataModule

    data = PairDataModule(
        UnpairedPairing(source, target),
        IndependentCoupling(),
        randomness.under("data"),
        starts,
        validation_items=starts,
        placement=StreamingPlacement(),
        repeat=chosen.steps_per_rollout,
    )
    _train(module, data, steps, device, progress)
    return _flow(module.ema, (source, target), _named(make), seed)


def load(folder: str | FilePath, **objects: Any) -> Flow:
    """A flow that ``Flow.save`` wrote, or a run folder; runs no code of the folder's.

    Args:
        folder: The folder.
        **objects: Parts that its config cannot name, for instance ``network=my_module``.

    Raises:
        FlowportError: For a folder without a flow, weights of another shape, and a part that must be given.
    """
    place = FilePath(folder)
    if (place / ".hydra").is_dir():
        from flowport.run.restore import restore
        from flowport.run.run_folder import RunFolder

        module = restore(RunFolder(place)).module
        return _flow(module.ema, (module.source, module.target), None, 0)
    try:
        config = json.loads((place / "config.json").read_text())
        weights = load_file(place / "flow.safetensors")
        layout, shape = config["layout"], tuple(int(n) for n in config["event_shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowportError(f"{place} holds no flow, or a damaged one: {str(error).splitlines()[0]}") from None
    if layout != LAYOUT:
        raise FlowportError(f"{place} was written by flowport {config['flowport']}, which {__version__} does not read")
    field = _rebuilt_field(config["field"], shape, objects)
    try:
        field.load_state_dict(weights)
    except RuntimeError as error:
        raise FlowportError(f"{place}/flow.safetensors does not fit: {str(error).splitlines()[-1].strip()}") from None
    modality = _rebuilt("modality", config["modality"], objects.get("modality"), "modality")
    source = Gaussian(event_shape=shape) if config["noise_source"] else None
    network = config["field"]["network"]
    return Flow(field.eval().requires_grad_(False), shape, source, None, modality, network)


def solve(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    *,
    solver: Any = "dopri5",
    steps: int = 50,
    trajectory: bool = False,
) -> Tensor:
    """Integrate dX = v(X, t) dt from t = 0 to t = 1.

    Args:
        velocity: v(x, t) -> (N, *D) of x (N, *D) and t (N,).
        x: Points at t = 0.
        solver: An ODE solver of ``flowport.sampling.solver``.
        steps: Steps of the uniform time grid.
        trajectory: Return all states, (steps + 1, N, *D), instead of the end.
    """
    times = torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        process = FunctionProcess(velocity)
        found = member("solver", solver).solve(process, x, times, torch.Generator(x.device), trajectory)
    return found.states if trajectory else found.end


@dataclass(frozen=True)
class Coupled:
    """Indices of a coupling: source row i[k] with target row j[k]; cost: mean |x0 − x1|² of the pairs; facts of the
    plan, for instance its entropy."""

    i: Tensor
    j: Tensor
    cost: float
    facts: Mapping[str, float]


def couple(x0: Tensor, x1: Tensor, *, coupling: Any = "exact", seed: int = 0) -> Coupled:
    """Couple two batches.

    Args:
        x0: Source points (N, *D).
        x1: Target points (N, *D).
        coupling: A coupling of ``flowport.coupling``.
        seed: Of couplings that draw.
    """
    generator = torch.Generator(x0.device).manual_seed(seed)
    plan = member("coupling", coupling)(Pair(Sample(x0), Sample(x1)), generator)
    cost = (x0[plan.i] - x1[plan.j]).square().flatten(1).sum(1).mean()
    return Coupled(plan.i, plan.j, float(cost), {name: float(value) for name, value in plan.facts.items()})


__all__: Sequence[str] = ["Flow", "compose", "couple", "finetune", "fit", "load", "solve"]
