"""The probe of ``method=auto``: what a few paths of the base say of a reward, before any training.

References:
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from importlib.util import find_spec
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from flowport.conditioning import SourceLabelConditioning, TargetLabelConditioning
from flowport.field.base import Field
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.adjoint_snr import adjoint_snr
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.method.base import starts
from flowport.finetuning.path_weights import (
    Groups,
    annealed_strength,
    effective,
    group_mean,
    group_size,
    law_groups,
    normalised,
)
from flowport.finetuning.pilot import FEW_NUMBERS, Signals
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Pair

STEPS = 20
"""Steps of the probe's paths."""
EACH = 32
"""Paths from every start on a bridge, where weights are those given the start."""
TIMES = (0.2, 0.5)
"""Times at which the adjoint's signal is measured: what is decided late is seen by every method."""
SEEN = 0.5
"""Effective size, a share, at whose strength the adjoint's signal is measured."""
STATES = {False: 8, True: 16}
"""States at least at which the adjoint's signal is measured, from noise and on a bridge, where they are of four starts:
from fewer the error of the signal is not known."""
LEAST = 64
"""Paths of the probe at least, also of a tuning from few starts."""

PROBED = 64
"""Rows of which networks and reward hold the activations at a time where ``rows`` is null: a probe comes before the
estimate of the peak of memory."""


def size(auto: AutoMethod, starts: int) -> int:
    """Number of paths of the probe: ``auto.paths``, but at most four times the starts of a collection of the tuning.

    Args:
        auto: The sizes asked for.
        starts: Points from which every collection of the tuning starts.
    """
    return min(auto.paths, max(LEAST, 4 * starts))


def probe(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    branches: int = 16,
    rows: int | None = None,
) -> Signals:
    """Measure what ``choose`` reads: the weights e^{λr} of base results and the adjoint's signal.

    The effective size and the KL of the tilt to the base, Σ w log(w n), are those of weights normalised given the start
    on a bridge and given the class where one is told. Neither can exceed what n results show: the share is at least
    1/n, the KL at most log n. The adjoint's signal hardly depends on the strength, so it is measured at the largest
    part of λ at which the weights have the effective size ``SEEN``: paths of the base do not show a stronger tilt.

    Args:
        base: The frozen base.
        reward: The reward r.
        strength: λ.
        pair: A batch of as many sources as the probe has paths; on a bridge every ``EACH``-th is used.
        generator: Random generator, on the device of the batch.
        branches: Paths from every state at which the adjoint's signal is measured.
        rows: Number of paths that are simulated at once, but at least those of one start or state; None: all.

    Raises:
        FlowportError: For a base that cannot be tuned, and for a reward that is not finite.
    """
    chain = ConsistentDiscretisation(UniformGrid(STEPS))
    chain.accept(base)
    given, told = base.conditioning.sees_source, _told(base)
    each = EACH if given else 1
    n = max(1, len(pair) // each)
    values, labels = list[Tensor](), list[Tensor]()
    step = n if rows is None else max(1, rows // each)
    for first in range(0, n, step):
        rows_of = slice(first, min(n, first + step))
        start, condition = starts(base, pair.take(rows_of, rows_of), generator, each)
        end = roll_out(chain, base, start, condition, generator, ends_only=True).states[-1]
        values.append(strength * reward.value(end, condition).double())
        if condition.label is not None:
            labels.append(condition.label)
    label = torch.cat(labels) if labels else None
    value, groups = torch.cat(values), law_groups(label, n if given else None)
    found = weighed(value, groups)
    gradient, numbers, calls = reward.differentiable, prod(pair.source.x.shape[1:]), len(value)
    signal: tuple[float | None, float] = (None, 0.0)
    if gradient and numbers > FEW_NUMBERS:
        states = slice(max(STATES[given], len(pair) // branches))
        few = pair.take(states, states)
        mild = strength * float(annealed_strength(value, torch.zeros_like(value), groups, SEEN)[0])
        seen = adjoint_snr(base, reward, mild, few, generator, branches, chain, TIMES, slopes=False, rows=rows)
        calls += len(TIMES) * len(few) * branches
        signal = (None, 0.0) if seen.least.withheld else (seen.least.value, seen.least.error)
    pictures = pair.source.x.ndim == 4
    return Signals(
        numbers=numbers,
        gradient=gradient,
        effective=found.effective,
        signal=signal[0],
        signal_se=signal[1],
        told=told,
        bridge=given,
        kl=found.kl,
        kl_se=found.kl_se,
        calls=calls,
        paths=len(value),
        each=found.each if given or label is None else class_size(label),
        low_rank=find_spec("peft") is not None if pictures else None,
    )


class Weighed(NamedTuple):
    """What weights of results say of a tilt.

    Args:
        effective: Effective sample size 1/Σw² within a group, a share of its size, averaged over the results' groups.
            It is a number of these results, not an estimate of one that more results would have.
        kl: KL of the tilt to the base, Σ w log(w n), in nats, where each group has its share of the n results.
        kl_se: Its standard error, with the bias that few results of a group leave.
        each: Number of results of a group, averaged over the results' groups.
    """

    effective: float
    kl: float
    kl_se: float
    each: float


def weighed(value: Tensor, groups: Groups) -> Weighed:
    """Effective size and KL of the weights e^{λr}, normalised within groups.

    With u = w n, of mean 1 in each group, the effective share of a group is 1/mean(u²) and its KL = mean(u log u). The
    standard error of the KL is that of the mean of its influence function u log u − (1 + KL)(u − 1), on a bridge, where
    groups are starts, over the means of the starts; the bias by the jackknife within groups is added in quadrature.

    Args:
        value: λr of the results, (n,).
        groups: Groups of the results.
    """
    w = normalised(value, groups)
    u = w * len(value)
    log, n = torch.xlogy(u, u), group_size(u, groups)
    kl = group_mean(log, groups)
    influence = log - (1 + kl) * (u - 1)
    units = influence.unflatten(-1, (groups, -1)).mean(-1) if isinstance(groups, int) and groups > 1 else influence
    left = (n - u).clamp_min(1e-12)  # sums without one result, which alone has no bias
    without = (n * kl - log) / left - (left / (n - 1).clamp_min(1)).log()
    bias = ((n - 1) * (without - kl)).mean()
    error = (units.var() / len(units) + bias.square()).sqrt()
    return Weighed(float(effective(w, groups)), float(kl.mean()), float(error), float(n.mean()))


def class_size(label: Tensor) -> float:
    """Number of results of a class, averaged over the results; 1 for continuous labels, of which hardly two are alike.

    ``law_groups`` puts classes of few results together, so that the size of its groups does not say how many there are.

    Args:
        label: Told classes, (n,) int64, or continuous values.
    """
    if label.is_floating_point():
        return 1.0
    _, index, count = label.unique(return_inverse=True, return_counts=True)
    return float(count[index].double().mean())


def _told(base: Field) -> bool:
    return isinstance(base.conditioning, TargetLabelConditioning | SourceLabelConditioning)
