"""Closed-form worlds with controls of known distance to their tilt: mixtures from noise, told a class, and bridges."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowport.capabilities import Capabilities, ConditionedBridge, SourceIsNoise
from flowport.conditioning import SourceConditioning, TargetLabelConditioning, Unconditional
from flowport.field.base import Field
from flowport.finetuning.adapter import Adapter
from flowport.finetuning.tilted_field import TiltedField
from flowport.path import BrownianBridge, LinearPath
from flowport.prediction import VelocityPrediction
from flowport.reward import LinearReward
from flowport.types import Pair, Sample


@dataclass(frozen=True)
class Law:
    """For every class c the mixture Σ_k w_ck(x0) N(m_ck + slope·x0, diag v_ck), w_ck(x0) ∝ w_ck e^{lean_k·x0}; weights
    (C, K), means and variances (C, K, d), lean (K, d)."""

    weights: Tensor
    means: Tensor
    variances: Tensor
    slope: float = 0.0
    lean: Tensor | None = None

    @classmethod
    def of(cls, weights, means, variance, slope=0.0, lean=None):
        w, m = torch.tensor(weights), torch.tensor(means)
        w, m = (w[None], m[None]) if w.ndim == 1 else (w, m)
        return cls(w / w.sum(1, keepdim=True), m, torch.full_like(m, variance), slope, lean)

    def tilted(self, c: Tensor) -> "Law":
        """The law times e^{c·x}, normalised in every class (and for every start, if the slope is the same in all)."""
        log_w = self.weights.log() + self.means @ c + 0.5 * (self.variances * c * c).sum(2)
        return replace(self, weights=log_w.softmax(1), means=self.means + self.variances * c)

    def without(self, k: int, c: int = 0) -> "Law":
        weights = self.weights.clone()
        weights[c, k] = 1e-12
        return replace(self, weights=weights)


class Known(Field):
    """The exact velocity of a law's flow."""

    def __init__(self, law: Law, conditioning=None, path=None, role=None) -> None:
        role = role or SourceIsNoise()
        conditioning = conditioning or Unconditional()
        super().__init__(path or LinearPath(), VelocityPrediction(), conditioning, Capabilities(role, True))
        self.law = law

    def forward(self, x, t, condition):
        law, c = self.law, self.path.coefficients(t[:1])
        n, dn = self.capabilities.role.amplitude(c)
        row = slice(0, 1) if condition.label is None else condition.label
        w, m, v = law.weights[row], law.means[row], law.variances[row]
        offset, drift, log_w = 0, 0, w.log()
        if condition.source is not None:
            log_w = log_w if law.lean is None else log_w + condition.source @ law.lean.mT
            offset, drift = c.alpha * condition.source, c.dalpha * condition.source
            m = m + law.slope * condition.source[:, None]
        variance = c.beta**2 * v + n**2
        y = (x - offset)[:, None] - c.beta * m
        share = (log_w - 0.5 * (y * y / variance + variance.log()).sum(2)).softmax(1)[..., None]
        pull = y / variance
        return drift + (share * (c.dbeta * m + (c.beta * c.dbeta * v + n * dn) * pull)).sum(1)


class Exact(Adapter):
    """The change of velocity to a goal."""

    def __init__(self, goal: Known) -> None:
        super().__init__()
        self.goal = goal

    def velocity(self, x, t, condition, base, gains):
        return self.goal.velocity(x, t, condition) - base


@dataclass(frozen=True)
class World:
    """A base law, the reward c·x, and how the field is conditioned."""

    law: Law
    c: tuple[float, float]
    kind: str = "noise"
    lost: tuple[int, int] = (-1, 0)

    def flow(self, law: Law) -> Known:
        if self.kind == "bridge":
            return Known(law, SourceConditioning(), BrownianBridge(1.0), ConditionedBridge())
        return Known(law, TargetLabelConditioning() if self.kind == "classes" else None)

    def goal(self, control: str) -> Law:
        c = torch.tensor(self.c)
        tilt = self.law.tilted(c)
        return {
            "untuned": self.law,
            "half": self.law.tilted(c / 2),
            "exact": tilt,
            "overshot": self.law.tilted(1.4 * c),
            "mode lost": tilt.without(*self.lost),
        }[control]

    def tuned(self, control: str) -> TiltedField:
        base = self.flow(self.law)
        return TiltedField(base, Exact(self.flow(self.goal(control))))

    @property
    def reward(self) -> LinearReward:
        return LinearReward(list(self.c))

    def batch(self, n: int, generator: torch.Generator) -> Pair:
        """n starts, and the classes of n results."""
        x = torch.randn(n, 2, generator=generator)
        label = torch.randint(len(self.law.weights), (n,), generator=generator) if self.kind == "classes" else None
        return Pair(Sample(x), Sample(x, label))


WORLDS = {
    "mild": World(Law.of([0.5, 0.3, 0.2], [[-1.5, 0.0], [1.5, 0.5], [0.0, -1.5]], 0.3), (0.8, 0.0)),
    "hard": World(Law.of([0.7, 0.3], [[-3.0, 0.0], [3.0, 0.0]], 0.2), (0.4, 0.0)),
    "classes": World(
        Law.of(
            [[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]],
            [[[-1.0, 0.0], [1.0, 0.0]], [[-2.0, 1.0], [1.0, 1.0]], [[0.0, -1.5], [2.0, 0.0]]],
            0.3,
        ),
        (0.8, 0.2),
        "classes",
    ),
    "bridge": World(
        Law.of([0.6, 0.4], [[-1.2, 0.0], [1.2, 0.0]], 0.3, 0.5, torch.tensor([[0.0, 0.0], [0.5, 0.3]])),
        (0.8, 0.3),
        "bridge",
    ),
}
"""By name."""
