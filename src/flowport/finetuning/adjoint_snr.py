"""Signal-to-noise ratio of the lean adjoint: whether adjoint matching can see the tilt, before any training.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
    Owen 2013, "Monte Carlo theory, methods and examples", chapter 9, https://artowen.su.domains/mc (standard errors of
        ratios of weighted means by the delta method).
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.path_weights import Groups, effective, law_groups, normalised
from flowport.reward.base import Reward
from flowport.sampling.grid import UniformGrid
from flowport.types import Condition, Pair

ROOTS = 4
"""Base paths from every start of ``adjoint_snr`` on a bridge."""
FINER = 5
"""Ratio of the number of steps from which ``adjoint_snr`` estimates the continuous-time control."""
SIGNAL = 0.3
"""Signal from which adjoint matching reaches the tilt (docs/results/arena.md)."""
BIAS = 0.15
"""Distance of the slope from 1 up to which it does; 20 steps alone cause 0.1."""
SURE = 2.6
"""Standard errors by which a number must miss its limit to be called bad: of five times, the worst is looked at."""
LEAST_STATES = 4.0
"""Effective number of states below which no number is stated."""
LEAST_BRANCHES, SLOPE_BRANCHES = 4.0, 20.0
"""Effective number of paths from a state below which no signal and no slope is stated: a slope compares means over
halves of the paths, which weights on few of them draw towards the base."""


@dataclass(frozen=True)
class Measured:
    """A number with its standard error, or why there is none.

    Args:
        value: The number; NaN where it is withheld.
        error: Its standard error.
        withheld: Why it is not stated; empty where it is.
    """

    value: float
    error: float = 0.0
    withheld: str = ""

    @classmethod
    def none(cls, why: str) -> "Measured":
        """A number that is withheld.

        Args:
            why: The reason.
        """
        return cls(float("nan"), 0.0, why)

    def below(self, limit: float) -> bool:
        """Whether the number is below a limit by ``SURE`` of its standard errors.

        Args:
            limit: The limit.
        """
        return not self.withheld and self.value + SURE * self.error < limit

    def __str__(self) -> str:
        return "not measured" if self.withheld else f"{self.value:.2g} ± {self.error:.1g}"


@dataclass(frozen=True)
class AdjointSNR:
    """Bias and signal-to-noise ratio of the lean adjoint as a regression target of G = ∇ log h, by time.

    Args:
        times: Times t_k.
        slopes: E[−a·G]/E|G|², which is 1 without bias.
        signals: E|G|²/E|a − E[a | x]|².
        effective: Effective sample size of the weights e^{λr} of base results, a share.
    """

    times: list[float]
    slopes: list[Measured]
    signals: list[Measured]
    effective: float = 1.0

    @property
    def least(self) -> Measured:
        """The smallest measured signal, or why none is measured."""
        known = [s for s in self.signals if not s.withheld]
        return min(known, key=lambda s: s.value) if known else self.signals[0]

    @property
    def blind(self) -> bool:
        """Whether the signal is below 0.3 at some time, by more than its error."""
        return any(s.below(SIGNAL) for s in self.signals)

    @property
    def biased(self) -> bool:
        """Whether the slope is farther than 0.15 from 1 at some time, by more than its error."""
        return any(not s.withheld and abs(s.value - 1) - SURE * s.error > BIAS for s in self.slopes)

    @property
    def alarming(self) -> bool:
        """Whether the adjoint is blind or biased beyond the errors of the estimates."""
        return self.blind or self.biased

    @property
    def clear(self) -> bool:
        """Whether all signals are measured and at least 0.3, and no measured slope is off by more than its error."""
        return not self.alarming and all(not s.withheld and s.value >= SIGNAL for s in self.signals)

    def numbers(self) -> dict[str, float | str]:
        """slope_<t> and signal_<t> with their standard errors (…_se); of what is withheld the reason (…_withheld)."""
        found: dict[str, float | str] = {"effective": self.effective}
        for name, column in (("slope", self.slopes), ("signal", self.signals)):
            for t, number in zip(self.times, column, strict=True):
                key = f"{name}_{t:.2f}"
                stated = {key: number.value, f"{key}_se": number.error}
                found |= {f"{key}_withheld": number.withheld} if number.withheld else stated
        return found

    def sentence(self, advice: str = "") -> str:
        """The result as one sentence.

        Args:
            advice: What to use instead where the adjoint cannot see the answer.
        """
        parts = [f"least signal {self.least}", f"slope farthest from 1 {_farthest(self.slopes)}"]
        missing = {number.withheld for number in (*self.slopes, *self.signals) if number.withheld}
        text = "; ".join([*parts, *(f"not measured: {why}" for why in sorted(missing))])
        if self.clear:
            return f"the adjoint sees the answer at all times ({text})"
        if not self.alarming:
            return f"whether the adjoint sees the answer at all times is within the errors of this estimate ({text})"
        fault = "cannot see the answer at all times" if self.blind else "is biased"
        wanted = f"signal ≥ {SIGNAL} and slopes of 1 ± {BIAS} are needed"
        return f"the adjoint {fault} ({text}; {wanted}){': use ' if advice else ''}{advice}"


def _farthest(numbers: Sequence[Measured]) -> Measured:
    """The farthest from 1 of the measured numbers, or one that is not measured."""
    known = [n for n in numbers if not n.withheld]
    return max(known, key=lambda n: abs(n.value - 1)) if known else numbers[0]


def ratio(weights: Tensor, upper: Tensor, lower: Tensor, groups: int) -> Measured:
    """Ratio Σ w a/Σ w b of weighted means over states, with its standard error by the delta method.

    With δ_i = w_i (a_i − R b_i)/Σ w b, the squared error is Σ δ² m/(m − 3), m = 1/Σ w² the effective number of terms:
    m/(m − 1) makes the estimate of a variance unbiased, and (m − 1)/(m − 3) is the variance of Student's t. On a bridge
    it is the larger one of that over states and that over starts, since states of one start are alike.

    Args:
        weights: Weights w of sum 1, (n,).
        upper: Values a, (n,).
        lower: Values b, (n,).
        groups: Number of starts, each with as many contiguous states; 1 where every state has its own.
    """
    w = weights.double()
    mean = w @ lower.double()
    value = (w @ upper.double()) / mean
    parts = w * (upper.double() - value * lower.double()) / mean
    kinds = [(parts, w)] if groups == 1 else [(parts, w), tuple(v.view(groups, -1).sum(1) for v in (parts, w))]
    errors = []
    for part, weight in kinds:
        m = 1 / weight.square().sum()
        errors.append(part.square().sum() * m / (m - 3).clamp_min(0.1))
    return Measured(float(value), float(torch.stack(errors).max().sqrt()))


@dataclass(frozen=True)
class _Branches:
    """What the paths continued from every state say of the control: all (n,).

    Args:
        weight: Log weight of the state under the tilt.
        square: Estimate of |∇ log h|² without the bias of its noise.
        noise: Variance of the adjoint around its mean, summed over coordinates.
        cross: Estimate of −E[a]·∇ log h.
        kept: Effective number of paths under e^{λr}.
        first: λr of all paths, (n, branches).
    """

    weight: Tensor
    square: Tensor
    noise: Tensor
    cross: Tensor
    kept: Tensor
    first: Tensor


@dataclass(frozen=True)
class _Chain:
    """A base, its reward and the steps by which its paths are continued.

    Args:
        base: The frozen base.
        reward: A differentiable reward r.
        strength: λ.
        coarse: Steps of the adjoint.
        fine: Steps from which the control is estimated; None: the adjoint's own mean is taken for it.
        branches: Paths from every state.
        generator: Random generator of the paths.
    """

    base: Field
    reward: Reward
    strength: float
    coarse: ConsistentDiscretisation
    fine: ConsistentDiscretisation | None
    branches: int
    generator: torch.Generator

    def at(self, k: int, state: Tensor, condition: Condition, rows: int | None) -> _Branches:
        """Continue paths from states at step k, in pieces of at most ``rows`` paths."""
        size = len(state) if rows is None else max(1, rows // self.branches)
        pieces = [slice(first, first + size) for first in range(0, len(state), size)]
        found = [self._piece(k, state[piece], condition[piece]) for piece in pieces]
        return _Branches(*(torch.cat([vars(f)[name] for f in found]) for name in _Branches.__dataclass_fields__))

    def _piece(self, k: int, state: Tensor, condition: Condition) -> _Branches:
        n = len(state)
        index = torch.arange(n, device=state.device).repeat_interleave(self.branches)
        conditions, start = condition[index], state[index]
        branch = roll_out(self.coarse, self.base, start, conditions, self.generator, first=k)
        value, slope = self.reward.value_and_gradient(branch.states[-1], conditions)
        terminal = -self.strength * slope.to(state)
        pull = -lean_adjoint(self.coarse, self.base, branch.states, conditions, terminal, first=k)[1]
        logits, pull = self._rows(self.strength * value.to(state), n), self._rows(pull, n)
        w, mean = logits.softmax(1), _mean(pull, logits)
        around = (w[..., None] * pull).sum(1, keepdim=True)
        noise = (w * (pull - around).square().sum(2)).sum(1) / (1 - w.square().sum(1)).clamp_min(1e-3)
        if self.fine is None:
            halves = [_mean(pull[:, j::2], logits[:, j::2]) for j in (0, 1)]
        else:
            end = roll_out(self.fine, self.base, start, conditions, self.generator, first=FINER * k).states[-1]
            fine = self._rows(self.strength * self.reward.value(end, conditions).to(state), n)
            end, gain = self._rows(end, n), self._gain(k, state)
            halves = [gain * (_mean(end[:, j::2], fine[:, j::2]) - end[:, j::2].mean(1)) for j in (0, 1)]
        square, cross = (halves[0] * halves[1]).sum(1), (mean * (halves[0] + halves[1]) / 2).sum(1)
        return _Branches(logits.logsumexp(1), square, noise, cross, 1 / w.square().sum(1), logits)

    def _rows(self, values: Tensor, n: int) -> Tensor:
        """Values of all paths, (n·branches, *D), by state: (n, branches) of numbers, else (n, branches, d)."""
        return values.view(n, self.branches) if values.ndim == 1 else values.flatten(1).view(n, self.branches, -1)

    def _gain(self, k: int, state: Tensor) -> Tensor:
        """β/n² at step k, by which the change of E[x1 | x] is ∇ log h."""
        times = self.coarse.noise_schedule(self.base).times
        c = self.base.path.coefficients(state.new_tensor([times[k]]).clamp_min(times[1] / 2))
        return c.beta / self.base.capabilities.role.amplitude(c)[0] ** 2


def adjoint_snr(
    base: Field,
    reward: Reward,
    strength: float,
    pair: Pair,
    generator: torch.Generator,
    branches: int = 256,
    discretisation: ConsistentDiscretisation | None = None,
    at: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8),
    slopes: bool = True,
    rows: int | None = None,
) -> AdjointSNR:
    """Estimate bias and signal-to-noise ratio of the adjoint under the tilt, before any training.

    Base paths give states x_k, weighted towards the tilted law, that of its class where one is told. From each,
    ``branches`` base paths are continued. Weighted by e^{λr}, their adjoints should satisfy

        E_tilt[−a_{k+1} | x] = G(x) = ∇ log h(x) = (β/n²)(E_tilt[x1 | x] − E_base[x1 | x]),

    and the right-hand side is estimated, without a gradient of the reward, from as many paths of five times finer
    steps. Two independent halves of these estimate |G|² without the bias of their noise. Standard errors are those of
    ratios of weighted means over states (``ratio``). A number is withheld where fewer than ``LEAST_STATES`` states or
    ``LEAST_BRANCHES`` paths of a state carry the weight (``SLOPE_BRANCHES`` of a slope), and a slope also where |G|² is
    not above its own error.

    Args:
        base: The frozen base.
        reward: A differentiable reward r.
        strength: λ.
        pair: A batch whose sources the paths start from; on a bridge a quarter of them, with 4 paths each.
        generator: Random generator of the paths, on the device of the batch.
        branches: Paths continued from every state.
        discretisation: Steps of the SDE; None: the marginal-consistent one with 20 uniform steps.
        at: Times at which the adjoint is examined; the nearest noisy step is used.
        slopes: Whether slopes are measured. False: the signal alone, with the adjoint's own mean in the place of G,
            which costs a third.
        rows: Largest number of paths that are simulated at once; None: all. Pieces draw noise of their own.
    """
    coarse = discretisation or ConsistentDiscretisation(UniformGrid(20))
    coarse.accept(base)
    fine = ConsistentDiscretisation(copy(coarse.grid), offset=1e-3) if slopes else None
    if fine is not None:
        fine.grid.steps = FINER * coarse.grid.steps
    groups, given = 1, base.conditioning.sees_source
    if given:  # the tilt is defined start by start, and so are the weights of the states
        groups = max(1, len(pair) // ROOTS)
        pair = pair.take(slice(groups), slice(groups))
    start, condition = starts(base, pair, generator, ROOTS if given else 1)
    times, paths = coarse.noise_schedule(base).times, roll_out(coarse, base, start, condition, generator)
    chain = _Chain(base, reward, strength, coarse, fine, branches, generator)
    own = groups if given else None
    known, share = list[tuple[float, Measured, Measured]](), 1.0
    for time in at:
        k = min(range(len(times) - 2), key=lambda i: abs(times[i] - time))
        found = chain.at(k, paths.states[k], condition, rows)
        if not known:
            told = None if condition.label is None else condition.label.repeat_interleave(branches, 0)
            of_paths = law_groups(told, own)
            share = float(effective(normalised(found.first.double().flatten(), of_paths), of_paths))
        known.append((times[k], *_judged(found, law_groups(condition.label, own), groups, slopes)))
    moments, tilts, signals = (list(column) for column in zip(*known, strict=True))
    return AdjointSNR(moments, tilts, signals, share)


def _judged(found: _Branches, laws: Groups, groups: int, slopes: bool) -> tuple[Measured, Measured]:
    """Slope and signal at one time, or why they are withheld, of states of some starts, weighted law by law."""
    root = normalised(found.weight.double(), laws)
    states, paths = float(1 / root.square().sum()), float(root @ found.kept.double())
    if min(states - LEAST_STATES, paths - LEAST_BRANCHES) < 0:
        none = Measured.none("times at which few states, or few paths from them, carry the weight of the tilt")
        return none, none
    signal = ratio(root, found.square, found.noise.clamp_min(1e-30), groups)
    signal = Measured(max(signal.value, 0.0), signal.error)
    square = ratio(root, found.square, torch.ones_like(found.square), groups)
    if not slopes:
        return Measured.none("slopes were not asked for"), signal
    if paths < SLOPE_BRANCHES:
        return Measured.none(f"slopes where weights leave fewer than {SLOPE_BRANCHES:.0f} paths of a state"), signal
    if square.value < 3 * square.error:
        return Measured.none("slopes where the control is not above the noise of its estimate"), signal
    return ratio(root, found.cross, found.square, groups), signal


def _mean(values: Tensor, logits: Tensor) -> Tensor:
    """Mean of values (n, m, D) over the m branches with weights ∝ e^{logits}, logits (n, m): (n, D).

    The bias of self-normalised weights, of order 1/m, is removed by the jackknife.
    """
    m, w = logits.shape[1], logits.softmax(1)
    mean = (w[..., None] * values).sum(1)
    without = 1 / (1 - w).clamp_min(1e-3)  # the mean without path i is (mean − w_i v_i)/(1 − w_i)
    left = without.sum(1)[:, None] * mean - ((w * without)[..., None] * values).sum(1)
    return m * mean - (m - 1) / m * left
