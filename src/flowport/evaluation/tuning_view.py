"""A tuned flow beside its base: results from the same held-out starts and noise, their numbers and their picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flowport.evaluation.evaluator import evenly
from flowport.evaluation.sweep_table import MeanAndError
from flowport.field.base import Field
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.tilted_field import TiltedField
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.tensors import float32_products, standard_error
from flowport.types import Pair

REWARD, TERM = "reward", "term_"
"""Name of the whole reward, and beginning of the names of its terms."""
STEPS = 40
"""Steps of the SDE along which the KL to the base is measured."""


@dataclass(frozen=True)
class TunedResults:
    """Results of a tuned flow and of its base, row k from the same start and the same noise.

    Args:
        base: Results of the base by the run's own sampler, (n, *D).
        tuned: Results of the tuned flow by the same sampler, (n, *D).
        values: Of the whole reward r (``"reward"``) and of its terms (``"term_<name>"``) the values of base and tuned
            results, (n,) each.
        energy: Control energy Σ_k h_k s²_k |G_k|²/2 of paths of the tuned flow's SDE, (n,), in nats.
    """

    base: Tensor
    tuned: Tensor
    values: Mapping[str, tuple[Tensor, Tensor]]
    energy: Tensor

    def numbers(self) -> dict[str, float]:
        """What is told of the results, by name.

        ``reward``, ``base_reward``: mean r; ``gain``: mean of what r won from the same start and noise, and the same of
        every ``term_<name>``; ``energy``: mean control energy, KL(P ‖ P_base) of the paths in nats; ``diversity``,
        ``base_diversity``: variance of a coordinate over the results, averaged over coordinates, in squared units of
        the points; ``diversity_share``: their ratio. ``<name>_se`` is the standard error of each.
        """
        numbers = {}
        for name, (base, tuned) in self.values.items():
            gain = "gain" if name == REWARD else f"{name}_gain"
            means = {name: tuned, f"base_{name}": base, gain: tuned.double() - base.double()}
            numbers.update(means_and_errors(means))
        numbers.update(means_and_errors({"energy": self.energy}))
        tuned, base = (squared_deviations(x) for x in (self.tuned, self.base))
        numbers.update(means_and_errors({"diversity": tuned, "base_diversity": base}))
        if base.mean() > 0:
            share = tuned.mean() / base.mean()
            ratio = share + (tuned - share * base) / base.mean()  # of the same starts and noise: errors of both cancel
            numbers.update(means_and_errors({"diversity_share": ratio}))
        return numbers

    def change(self, name: str) -> MeanAndError:
        """What a reward won from the same start and noise, mean and standard error.

        Args:
            name: ``"reward"`` or ``"term_<name>"``.
        """
        base, tuned = self.values[name]
        return MeanAndError.of((tuned.double() - base.double()).tolist())


def means_and_errors(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means and, as <name>_se, their standard errors.

    Args:
        values: Independent values by name, (n,) each.
    """
    numbers = dict[str, float]()
    for name, value in values.items():
        numbers |= {name: float(value.double().mean()), f"{name}_se": float(standard_error(value.double()))}
    return numbers


def squared_deviations(x: Tensor) -> Tensor:
    """Squared deviations from the mean, averaged over coordinates, times n/(n − 1): their mean is the variance, (n,).

    Args:
        x: Points, (n, *D).
    """
    points = x.flatten(1).double()
    return (points - points.mean(0)).square().mean(1) * (len(x) / max(1, len(x) - 1))


class TuningView:
    """Translates fixed starts with fixed noise by a tuned flow and by its base, as often as it is asked.

    Args:
        sampler: The run's own sampler.
        pair: Held-out starts, and the labels that are requested.
        randomness: Of the noise, which is drawn anew alike each time.
        discretisation: Steps of the SDE of the control energy; None: the marginal-consistent one with 40 uniform steps.
    """

    def __init__(
        self, sampler: Sampler, pair: Pair, randomness: Randomness, discretisation: Discretisation | None = None
    ) -> None:
        self.sampler, self.pair, self.randomness = sampler, pair, randomness
        self.discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
        self._base: Tensor | None = None  # the base is frozen

    @float32_products(tf32=False)
    def results(self, field: TiltedField, reward: Reward) -> TunedResults:
        """Results of a tuned flow beside those of its base, which are computed at the first call.

        Args:
            field: The tuned flow, in evaluation mode.
            reward: The reward r.
        """
        if self._base is None:
            self._base = self._ends(field.base)
        base, tuned = self._base, self._ends(field)
        condition = field.conditioning.sampling(self.pair.source, self.pair.target.label)
        values = {REWARD: (reward.value(base, condition), reward.value(tuned, condition))}
        before, after = (reward.term_values(x, condition) for x in (base, tuned))
        values |= {f"{TERM}{name}": (before[name], after[name]) for name in before}
        generator = self.randomness.generator("paths")
        start, told = starts(field, self.pair, generator)
        paths = roll_out(self.discretisation, field.base, start, told, generator, field)
        return TunedResults(base, tuned, values, paths.energy)

    def _ends(self, field: Field) -> Tensor:
        """Results of a flow, (n, *D)."""
        generator = self.randomness.generator("samples")
        return self.sampler.translator(field).forward(self.pair.source, generator, self.pair.target.label).end

    def draw(self, results: TunedResults, modality: Modality, path: Path) -> Tensor:
        """The sheet of starts, base results and tuned results, with the rewards under them, (3, H, W) uint8.

        Args:
            results: What is drawn.
            modality: Modality of the points.
            path: File to write, .png.
        """
        rows = {"source": self.pair.source.x, "base": results.base, "tuned": results.tuned}
        shown = evenly(len(results.base), modality.surface().shown)
        picture = {name: modality.observed(x[shown]).cpu() for name, x in rows.items()}
        base, tuned = (value[shown].cpu() for value in results.values[REWARD])
        return modality.surface().sheet(picture, {"base": base, "tuned": tuned}, str(path))
