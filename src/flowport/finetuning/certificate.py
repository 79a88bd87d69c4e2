"""Certificate of a fine-tuned flow: its distance to the tilt, with errors.

The numbers are those of ``flowport.finetuning.two_sided`` from paths of the tuned flow's chain and of its base's. What
its weights cannot carry is withheld, with the reason.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Vehtari, Simpson, Gelman, Yao and Gabry 2015, "Pareto smoothed importance sampling", arXiv:1507.02646 (where a mean
        over importance weights is reliable).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.paired_chains import paired_paths
from flowport.finetuning.reliability import Reliability
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair

BLIND_SPOT = "a mode of the tilt that neither the tuned paths nor the base's paths visit is in none of these numbers"
"""What the certificate cannot see."""
STEPS = 40
"""Steps of the SDE of ``certificate`` by default."""


@dataclass(frozen=True)
class Certificate:
    """Numbers of a tuned flow with their standard errors, and reasons for those that are withheld.

    Args:
        values: Estimates by name.
        errors: Their standard errors, by the same names; facts that are no estimates have none.
        withheld: Why a number is not stated, by name.
    """

    values: Mapping[str, float]
    errors: Mapping[str, float]
    withheld: Mapping[str, str]

    @property
    def numbers(self) -> dict[str, Any]:
        """<name>, <name>_se and <name>_withheld of all, and blind_spot, a sentence."""
        return {
            **self.values,
            **{f"{name}_se": error for name, error in self.errors.items()},
            **{f"{name}_withheld": reason for name, reason in self.withheld.items()},
            "blind_spot": BLIND_SPOT,
        }

    def told(self, name: str) -> str:
        """A number with its error, or the reason why it is withheld.

        Args:
            name: Of the number.
        """
        if name in self.withheld:
            return f"withheld ({self.withheld[name]})"
        return f"{self.values[name]:.3g} ± {self.errors[name]:.2g}"

    @property
    def sentence(self) -> str:
        """The certificate in one sentence."""
        told = {name: self.told(name) for name in ("kl_to_tilt", "kl_from_tilt", "kl_to_base", "elbo", "share")}
        rewards = [self.told(name) for name in ("reward", "tilted_reward", "base_reward")]
        return (
            f"KL(tuned‖tilt) {told['kl_to_tilt']}, KL(tilt‖tuned) {told['kl_from_tilt']}, KL(tuned‖base) "
            f"{told['kl_to_base']}, E[λr] − KL(tuned‖base) {told['elbo']}; share of the gain {told['share']}: "
            f"mean reward {rewards[0]}, tilt {rewards[1]}, base {rewards[2]}; "
            f"{self.values['effective']:.0f} effective of {self.values['paths']:.0f} paths"
        )


def certificate(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    discretisation: Discretisation | None = None,
    feature: Callable[[Tensor], Tensor] = torch.clone,
    paths: int | None = None,
) -> Certificate:
    """Compare the chain of the tuned flow with the tilt of its base's chain, from n paths of each.

    The tilt is that of the law of results given what the field is told: of all results, of every class, or of every
    start (``Grouping``); the numbers are means over classes or starts. They are those of the chain: KL of its paths
    bounds that of its results, and says nothing of results by another sampler.

    Args:
        field: The tuned flow.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
        feature: Function of the results, (n, *D) to (n, …), whose means are compared in ``mean_gap``; default the
            points.
        paths: Number of paths of each where every row has a law of its own, so that rows are repeated; None: as many
            as rows.

    Returns:
        In nats kl_to_tilt, KL(tuned‖tilt); kl_from_tilt, KL(tilt‖tuned), large where the tuned flow has lost what the
        tilt holds; kl_to_base, KL(tuned‖base). elbo, E[λr] − KL(tuned‖base) = log Z −
        KL(tuned‖tilt): of two tunings of a base by the same reward the one with the greater elbo is nearer to the tilt,
        by their difference, however strong the tilt is. share: (mean r of the tuned flow − base)/(tilt − base). reward,
        base_reward, tilted_reward: mean r of the three; scaled_…: of λr. mean_gap: largest difference of the mean of a
        coordinate of the feature between tuned flow and tilt, in standard deviations of the tilt. memory, where the
        field sees its start: variance over starts of log Z, 0 where the tilt start by start is that of all results.
        pareto_k and effective: shape of the largest weights and effective number of them, of ``paths`` of both chains.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
    found = paired_paths(field, reward, strength, pair, generator, discretisation, feature, paths)
    sides, trusted = found.sides, Reliability(found.sides)
    stated = {
        "kl_to_tilt": sides.kl_to_tilt,
        "kl_from_tilt": sides.kl_from_tilt,
        "kl_to_base": sides.kl_to_base,
        "elbo": sides.elbo,
        "share": sides.share,
        "scaled_reward": sides.reward_of_tuned,
        "scaled_base_reward": sides.reward_of_base,
        "scaled_tilted_reward": sides.reward_of_tilt,
        "mean_gap": sides.mean_gap(found.feature),
    }
    if field.conditioning.sees_source:
        stated["memory"] = sides.memory
    withheld = {name: reason for name, number in stated.items() if (reason := trusted.doubt(name, number))}
    values = {name: float(number.value) for name, number in stated.items() if name not in withheld}
    errors = {name: float(number.error) for name, number in stated.items() if name not in withheld}
    for scaled in [name for name in stated if name.startswith("scaled_")]:
        name = scaled.removeprefix("scaled_")
        if scaled in withheld:
            withheld[name] = withheld[scaled]
        else:
            values[name], errors[name] = values[scaled] / strength, errors[scaled] / strength
    values |= {"effective": float(sides.effective), "paths": 2 * sides.paths}
    shape = trusted.shape("weights")
    if shape is not None and shape.isfinite():
        values["pareto_k"] = float(shape)
    return Certificate(values, errors, withheld)
