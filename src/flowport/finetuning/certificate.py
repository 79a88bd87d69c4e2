"""Certificates of a fine-tuned flow: distance to the tilt, memory of the start.

Every path of the controlled SDE has the exact weight e^{λr − S}, S = log dP/dP_base, towards the tilted path law of the
frozen base (``flowport.finetuning.adjoint``), so means of the tuned flow can be compared with those of the tilt where
neither has a closed form. A mode that no path visits is not detected.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation, Discretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.path_weights import annealed_strength, effective, largest_gap, normalised
from flowport.finetuning.tilted_field import TiltedField
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair


def certificate(
    field: TiltedField,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    discretisation: Discretisation | None = None,
    feature: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, float]:
    """Compare the tuned flow's SDE with its tilt, by path weights.

    On a bridge whose field sees its start, weights are normalised start by start: a sixteenth of the batch's starts is
    used, with 16 paths each.

    Args:
        field: The tuned flow.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths, on the device of the batch.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
        feature: Function of the results, (n, *D) to (n, …), whose means are compared in ``gap``; default the points.

    Returns:
        ``reward``, ``base_reward``: mean of λr over paths of the tuned flow and of the base. ``tilted_reward``: its
        path-weighted mean, so that of the tilt. ``energy``: E Σ_k h_k s²_k |G_k|²/2, the path KL to the base in nats.
        ``effective``: effective sample size of the weights e^{λr − S}, a share. ``reached``: the largest a in [0, 1]
        for which the weights e^{a λr − S} have an effective sample size of one half. ``gap``: largest difference of the
        mean of a coordinate of the feature between tuned paths and tilt, in standard deviations of the tilt.
    """
    discretisation = discretisation or ConsistentDiscretisation(UniformGrid(STEPS))
    groups = 1
    if field.conditioning.sees_source:  # tilt and weights are defined start by start
        groups = max(1, len(pair) // BRANCHES)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(field, pair, generator, BRANCHES if field.conditioning.sees_source else 1)
    paths = roll_out(discretisation, field.base, start, condition, generator, field)
    end = feature(paths.states[-1]).flatten(1).double()
    value = strength * reward.value(paths.states[-1], condition).double()
    base = roll_out(discretisation, field.base, start, condition, generator).states[-1]
    w = normalised(value - paths.log_ratio.double(), groups)
    mean = w @ end
    gap = largest_gap(end.mean(0) - mean, (w @ (end - mean).square()).sqrt())
    numbers = {
        "reward": value.mean(),
        "base_reward": strength * reward.value(base, condition).mean(),
        "tilted_reward": w @ value,
        "energy": paths.energy.mean(),
        "effective": effective(w, groups),
        "reached": annealed_strength(value, paths.log_ratio.double(), groups, 0.5)[0],
        "gap": gap,
    }
    return {name: float(number) for name, number in numbers.items()}


def memory(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    each: int | None = None,
    discretisation: Discretisation | None = None,
) -> float:
    """Memory of the start: Var over x0 of log h_0(x0), with h_0(x0) = E_base[e^{λr(X1)} | x0], in nats².

    h_0 is estimated by the mean over ``each`` base paths from x0, and the variance of that estimate is subtracted by
    the delta method. 0: the base is memoryless for this reward, and the tilt start by start is the tilt of all results;
    large: they differ (the value function bias of Domingo-Enrich et al. 2024).

    Args:
        base: The frozen base.
        reward: The reward r.
        strength: λ.
        pair: A batch whose sources the paths start from.
        generator: Random generator of the paths, on the device of the batch.
        each: Paths from every start; None: 64.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 40 uniform steps.
    """
    discretisation, each = discretisation or ConsistentDiscretisation(UniformGrid(STEPS)), each or EACH
    discretisation.accept(base)
    start, condition = starts(base, pair, generator, each)
    end = roll_out(discretisation, base, start, condition, generator).states[-1]
    value = strength * reward.value(end, condition).double().view(-1, each)
    log_h = value.logsumexp(1)
    noise = (value - log_h[:, None]).exp().mul(each).var(1) / each  # delta method, of the logarithm of a mean
    return float((log_h.var() - noise.mean()).clamp_min(0))


STEPS = 40
"""Steps of the SDE of ``certificate`` and ``memory`` by default."""
BRANCHES = 16
"""Paths from every start of ``certificate`` on a bridge."""
EACH = 64
"""Paths from every start of ``memory`` by default."""
