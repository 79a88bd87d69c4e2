"""Whether the numbers of a certificate can be stated: tails of weights, effective sizes, bias, and errors.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry 2015, "Pareto smoothed importance sampling", arXiv:1507.02646 (k̂ above
        min(0.7, 1 − 1/log₁₀ S) of S weights is unreliable).
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.finetuning.pareto_tail import LEAST_WEIGHTS, largest_shape, pareto_shape
from flowport.finetuning.two_sided import Stated, TwoSided

LEAST_EFFECTIVE = 10
"""Effective number of weights below which no weighted mean is stated."""
LEAST_GAIN = 4.0
"""Gain of the tilt in its standard errors below which no share of it is stated."""
MOST_BIAS = 2.0
"""Correction by the jackknife, in standard errors, above which a number is withheld."""
LEAST_STARTS = 16
"""Number of starts below which twice the standard error from their spread covers the truth in less than 85 %."""
MOST_NOISE = 0.25
"""Variance of log Ẑ of a start, in nats², above which the memory of starts is not measured."""
TAIL = {
    "kl_to_tilt": "weights",
    "kl_from_tilt": "kl_from_tilt",
    "share": "reward",
    "scaled_tilted_reward": "reward",
    "mean_gap": "weights",
    "memory": "weights",
}
"""The tail (``TwoSided.tails``) that a weighted number rests on; numbers that are not listed need no weights."""


@dataclass(frozen=True)
class Reliability:
    """What the paths of a certificate can carry; leading dimensions are independent certificates.

    Args:
        sides: The paths.
    """

    sides: TwoSided

    def shape(self, tail: str) -> Tensor | None:
        """Pareto k̂ of a tail, (…); None for fewer than 100 weights.

        Args:
            tail: Name of the tail.
        """
        log_weights = self.sides.tails[tail]
        return pareto_shape(log_weights) if log_weights.shape[-1] >= LEAST_WEIGHTS else None

    def carried(self, name: str) -> Tensor:
        """Whether the weights can carry a number, (…).

        Args:
            name: Of a number of ``TAIL``.
        """
        enough, shape = self.sides.effective >= LEAST_EFFECTIVE, self.shape(TAIL[name])
        if shape is None:
            return torch.zeros_like(enough)
        return enough & (shape <= largest_shape(2 * self.sides.paths))

    def unbiased(self, name: str, number: Stated) -> Tensor:
        """Whether the bias of logarithms within groups, and the noise of memory, are small enough, (…).

        Args:
            name: Of the number.
            number: The number.
        """
        if name == "memory":
            return self.sides.log_z_error.square().mean(-1) <= MOST_NOISE
        return number.correction.abs() <= MOST_BIAS * number.error

    def gained(self) -> Tensor:
        """Whether the tilt's gain is so clear that a share of it can be stated, (…)."""
        gain = self.sides.gain_of_tilt
        return gain.value > LEAST_GAIN * gain.error

    def stands(self, name: str, number: Stated) -> Tensor:
        """Whether a number can be stated, (…).

        Args:
            name: Of the number.
            number: The number.
        """
        finite = number.value.isfinite() & number.error.isfinite()
        if name not in TAIL:
            return finite
        fine = finite & self.carried(name) & self.unbiased(name, number)
        return fine & self.gained() if name == "share" else fine

    def doubt(self, name: str, number: Stated) -> str:
        """The reason to withhold a number of a single certificate; empty where it can be stated.

        Args:
            name: Of the number.
            number: The number.
        """
        sides = self.sides
        if sides.clustered and sides.groups < LEAST_STARTS:
            return (
                f"paths from {sides.groups} {sides.unit}, fewer than {LEAST_STARTS}, give no standard error that covers"
            )
        if bool(self.stands(name, number)):
            return ""
        return self._doubt_of_weights(name, number) if name in TAIL else "not finite"

    def _doubt_of_weights(self, name: str, number: Stated) -> str:
        """The reason why weights do not carry a number."""
        sides = self.sides
        if not bool(self.carried(name)):
            shape = self.shape(TAIL[name])
            told = f"fewer than {LEAST_WEIGHTS} weights" if shape is None else f"k̂ {float(shape):.1f}"
            return f"unreliable: {told}, {float(sides.effective):.0f} effective samples of {2 * sides.paths}"
        if not bool(self.unbiased(name, number)):
            each = 2 * sides.paths // sides.groups
            return f"not measured: about {each} paths for each class or start are too few for their own noise"
        if name == "share" and not bool(self.gained()):
            gain = sides.gain_of_tilt
            return f"no gain to share: that of the tilt is {float(gain.value):.2g} ± {float(gain.error):.2g} (scaled)"
        return "not finite"
