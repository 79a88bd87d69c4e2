"""What is measured of a flow that was fine-tuned from Python: rewards before and after, and the certificate."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.field import Field
from flowport.finetuning.certificate import Certificate, certificate
from flowport.finetuning.tilted_field import TiltedField
from flowport.finetuning.tuning_points import held_out
from flowport.network.pieces import pieces_of
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import EulerMaruyama, Heun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import MemorylessVolatility, ZeroVolatility
from flowport.tensors import float32_products, standard_error
from flowport.types import Pair

STARTS = 512
"""Held-out starts from which rewards are measured, and paths of either chain of the certificate."""


@dataclass(frozen=True)
class Tuning:
    """A tuned flow with its base, its reward and its data.

    Args:
        field: The tuned flow, on the CPU.
        reward: The reward r.
        strength: λ.
        source: The source.
        target: The target.
        randomness: Randomness of the measurements.
        place: Device on which they are made.
        rows: Rows of which networks and reward hold the activations at a time.
    """

    field: TiltedField
    reward: Reward
    strength: float
    source: Distribution
    target: Distribution
    randomness: Randomness
    place: str
    rows: int

    def rewards(self) -> Mapping[str, float]:
        """Means of r before and after, and of what every start won, with standard errors."""
        pair = self._held_out("compared")
        source, label = pair.source, pair.target.label
        condition = self.field.conditioning.sampling(source, label).each(lambda v: v.to(self.place))
        found: list[dict[str, Tensor]] = []
        try:
            with pieces_of(self.rows, self.field, *self._rewards):
                for field in (self.field.base, self.field):
                    generator = self.randomness.generator("compared")
                    end = _translator(field).forward(source, generator, label).end.to(self.place)
                    found.append({"": self.reward.value(end, condition), **self.reward.term_values(end, condition)})
        finally:
            self.reward.cpu()  # which follows its points to their device
        numbers = dict[str, float]()
        for name, before in found[0].items():
            columns = {"before": before, "after": found[1][name], "gain": found[1][name] - before}
            for key, values in columns.items():
                at = f"{name}_{key}".lstrip("_")
                numbers[at] = float(values.double().mean())
                numbers[f"{at}_se"] = float(standard_error(values.double()))
        return numbers

    @float32_products(tf32=False)
    def certificate(self) -> Certificate:
        """The certificate of the tuned flow, from ``STARTS`` paths of its chain and of its base's."""
        pair = self._held_out("certified").to(self.place)
        generator = self.randomness.generator("certificate")
        try:
            with pieces_of(self.rows, self.field, *self._rewards):
                field, reward = self.field.to(self.place), self.reward.to(self.place)
                return certificate(field, reward, self.strength, pair, generator, paths=STARTS)
        finally:
            self.field.cpu()
            self.reward.cpu()

    @property
    def _rewards(self) -> tuple[Reward, ...]:
        return self.reward, *self.reward.term_rewards.values()

    def _held_out(self, name: str) -> Pair:
        source, target = self.source.split("test"), self.target.split("test")
        return held_out(source, target, STARTS, self.randomness.under(name))


def _translator(field: Field) -> Translator:
    """By the ODE; by the SDE where a flow that sees its start has no ODE to its whole law."""
    if field.capabilities.role.ode(field.path):
        return Translator(field, Heun(), UniformGrid(20), ZeroVolatility())
    return Translator(field, EulerMaruyama(), UniformGrid(50), MemorylessVolatility())
