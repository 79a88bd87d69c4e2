"""The probe of ``method=auto``: what a few paths of the base say of a reward, before any training.

References:
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from importlib.util import find_spec
from math import log, prod

import torch
from torch import Tensor

from flowport.conditioning import SourceLabelConditioning, TargetLabelConditioning
from flowport.field.base import Field
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.adjoint_snr import adjoint_snr
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.method.base import starts
from flowport.finetuning.path_weights import annealed_strength
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
    values, groups = list[Tensor](), list[Tensor]()
    step = n if rows is None else max(1, rows // each)
    for first in range(0, n, step):
        rows_of = slice(first, min(n, first + step))
        start, condition = starts(base, pair.take(rows_of, rows_of), generator, each)
        end = roll_out(chain, base, start, condition, generator).states[-1]
        values.append(strength * reward.value(end, condition).double())
        own = torch.arange(rows_of.start, rows_of.stop, device=end.device).repeat_interleave(each)
        label = condition.label if told else None
        groups.append(own if given else torch.zeros_like(own) if label is None else _classes(label))
    value = torch.cat(values)
    effective, kl = weighed(value, torch.cat(groups))
    gradient, numbers, calls = reward.differentiable, prod(pair.source.x.shape[1:]), len(value)
    signal: tuple[float | None, float] = (None, 0.0)
    if gradient and numbers > FEW_NUMBERS:
        states = slice(max(STATES[given], len(pair) // branches))
        few = pair.take(states, states)
        mild = strength * float(annealed_strength(value, torch.zeros_like(value), n if given else 1, SEEN)[0])
        seen = adjoint_snr(base, reward, mild, few, generator, branches, chain, TIMES, slopes=False, rows=rows)
        calls += len(TIMES) * len(few) * branches
        signal = (None, 0.0) if seen.least.withheld else (seen.least.value, seen.least.error)
    pictures = pair.source.x.ndim == 4 and find_spec("peft") is not None
    return Signals(numbers, gradient, effective, *signal, told, given, kl, calls, len(value), pictures)


def weighed(value: Tensor, group: Tensor) -> tuple[float, float]:
    """Effective size of the weights e^{λr} normalised within groups, a share, and the KL of the tilt to the base.

    With n_g results in group g and w_i the weights of sum 1 in it, the share is Σ_g (n_g/n)(1/Σ w²)/n_g and the KL
    Σ_g (n_g/n) Σ w log(w n_g).

    Args:
        value: λr of the results, (n,).
        group: Number of each result's group, (n,).
    """
    shares, kls = [], []
    for g in group.unique():
        logits = value[group == g]
        log_w = logits - logits.logsumexp(0)
        w, n = log_w.exp(), len(logits)
        shares.append(1 / w.square().sum())
        kls.append(n * (w * (log_w + log(n))).sum())
    return float(torch.stack(shares).sum() / len(value)), float(torch.stack(kls).sum() / len(value))


def _told(base: Field) -> bool:
    return isinstance(base.conditioning, TargetLabelConditioning | SourceLabelConditioning)


def _classes(label: Tensor) -> Tensor:
    """The class of every result; continuous labels are taken for one group, since hardly two are alike."""
    return label if not label.is_floating_point() else torch.zeros(len(label), dtype=torch.long, device=label.device)
