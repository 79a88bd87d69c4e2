"""The atlas of translations between domains: which find the true partner, and whether the geometry of the data says so.

Pairs of domains that share a domain are not independent, so intervals resample domains: of every draw of domains with
replacement, an ordered pair counts as often as both of its domains were drawn together, c_a c_b times.

References:
    Efron 1979, "Bootstrap methods: another look at the jackknife", doi:10.1214/aos/1176344552.
    Hesterberg 2015, "What teachers should know about the bootstrap", doi:10.1080/00031305.2015.1089789 (percentiles of
        few items).
    Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), doi:10.1214/07-AOAS122 (data with crossed
        factors, whose levels are drawn again).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.stats import norm, t
from torch import Tensor

from flowport.evaluation.learnt import has_learnt, means_of
from flowport.evaluation.sweep_table import SEED, SIDES, Job
from flowport.randomness import Randomness

SOURCE, TARGET = "pair.source", "pair.target"
"""Overrides that name the domains of a run."""
FOUND = "test/partner_rank"
"""The number that says whether the true partner is found: 0 is always, 1/2 is chance."""
PREDICTORS = {
    "W2": lambda n: n.get("test/domain_w2_relative", math.nan),
    "Gromov–Wasserstein": lambda n: n.get("test/domain_gw_relative", math.nan),
    "mean intrinsic dimension": lambda n: (_dimension(n, "source") + _dimension(n, "target")) / 2,
    "difference of the intrinsic dimensions": lambda n: abs(_dimension(n, "source") - _dimension(n, "target")),
    "rank of the partner before the translation": lambda n: n.get(f"{FOUND}_untranslated", math.nan),
}
"""What is known of a pair of domains before a flow is trained."""
DRAWS = 4000
"""Number of resamples of an interval."""
TAIL = 0.025
"""Share of the law on either side of an interval."""
FEWEST = 4
"""Least number of domains of an interval, and of pairs of a correlation."""


def _dimension(numbers: Mapping[str, float], side: str) -> float:
    return numbers.get(f"test/{side}_dimension", math.nan)


@dataclass(frozen=True)
class Translation:
    """The flows of one ordered pair of domains and one setting, over seeds.

    Args:
        source: Name of the source domain.
        target: Name of the target domain.
        setting: What else the sweep varies, for instance the coupling.
        numbers: Means of the numbers over the seeds.
        seeds: Number of runs.
    """

    source: str
    target: str
    setting: str
    numbers: dict[str, float]
    seeds: int

    @property
    def learnt(self) -> bool:
        """Whether the translations have come near to the target, see ``has_learnt``."""
        return has_learnt(self.numbers)


def translations(jobs: Sequence[Job]) -> list[Translation]:
    """The pairs of domains of a sweep; none where its runs name no domains or have no rank of partners.

    Args:
        jobs: The finished runs.
    """
    named = [job for job in jobs if SOURCE in job.settings and TARGET in job.settings and FOUND in job.numbers]
    keys = dict.fromkeys(key for job in named for key in job.settings if key != SEED and not key.startswith(SIDES))
    varied = [key for key in keys if len({job.settings.get(key) for job in named}) > 1]
    groups = dict[tuple[str, str, str], list[dict[str, float]]]()
    for job in named:
        setting = ", ".join(f"{key} {job.settings.get(key, '')}" for key in varied) or "one setting"
        groups.setdefault((job.settings[SOURCE], job.settings[TARGET], setting), []).append(job.numbers)
    return [
        Translation(source, target, setting, means_of(runs), len(runs))
        for (source, target, setting), runs in groups.items()
    ]


def told_by_name(job: Job) -> Job:
    """A run with the names of its domains in place of the overrides that choose them; others as they are.

    Args:
        job: The run.
    """
    if SOURCE not in job.settings or TARGET not in job.settings:
        return job
    kept = {key: v for key, v in job.settings.items() if key in (SOURCE, TARGET) or not key.startswith(SIDES)}
    return replace(job, settings=kept)


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval over domains; NaN ends where there are too few domains.

    Args:
        value: The number.
        low: Lower end.
        high: Upper end.
        pairs: Number of ordered pairs.
        domains: Number of domains.
    """

    value: float
    low: float
    high: float
    pairs: int
    domains: int

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:.3f} (too few domains for an interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def differs(self, from_: float = 0.0) -> bool:
        """Whether a value lies outside the interval; false without one.

        Args:
            from_: The value.
        """
        return self.low > from_ or self.high < from_


def pair_weights(pairs: Sequence[tuple[str, str]], draws: int, generator: torch.Generator) -> Float[Tensor, "r p"]:
    """How often every ordered pair counts in each resample of the domains, c_a c_b, (draws, pairs) float64.

    c is the number of times that a domain was drawn, of as many draws with replacement as there are domains.

    Args:
        pairs: Names of source and target.
        draws: Number of resamples.
        generator: Randomness of the draws.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    drawn = torch.randint(len(names), (draws, len(names)), generator=generator)
    counts = torch.zeros(draws, len(names), dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    at = torch.tensor([[names.index(a), names.index(b)] for a, b in pairs])
    return counts[:, at[:, 0]] * counts[:, at[:, 1]]


def weighted_mean(weights: Float[Tensor, "r p"], values: Float[Tensor, "p"]) -> Float[Tensor, "r"]:
    """Σ_p w_p v_p / Σ_p w_p of every row of weights.

    Args:
        weights: Weights of the pairs.
        values: Their values.
    """
    return (weights @ values) / weights.sum(1)


def weighted_correlation(
    weights: Float[Tensor, "r p"], x: Float[Tensor, "p"], y: Float[Tensor, "p"]
) -> Float[Tensor, "r"]:
    """Weighted Spearman correlation: Pearson's of the ranks among all pairs, under every row of weights.

    Args:
        weights: Weights of the pairs.
        x: Their values of one number.
        y: Their values of the other one.
    """
    a, b = (mid_ranks(values) for values in (x, y))
    a, b = (ranks[None] - weighted_mean(weights, ranks)[:, None] for ranks in (a, b))
    return (weights * a * b).sum(1) / ((weights * a * a).sum(1) * (weights * b * b).sum(1)).sqrt()


def mid_ranks(values: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
    """Ranks from 1, of equal values their mean, (p,) float64.

    Args:
        values: The values.
    """
    less = (values[None] < values[:, None]).double().sum(1)
    return less + ((values[None] == values[:, None]).double().sum(1) + 1) / 2


def over_domains(
    pairs: Sequence[tuple[str, str]], statistic: Callable[[Tensor], Tensor], draws: int = DRAWS, together: int = 1
) -> Interval:
    """A statistic of pairs of domains with its percentile interval over resampled domains.

    The percentiles are those of Student's t on n − 1 degrees, widened by √(n/(n − 1)) for n domains, because plain ones
    are too narrow where n is small; of nine domains with additive effects an interval still covers in about 87 % of
    atlases only (47 % where pairs are resampled). Resamples without a pair, or in which the statistic is not defined,
    are left out.

    Args:
        pairs: Names of source and target.
        statistic: Weights of the pairs (r, p) -> the statistic under each of them, (r,).
        draws: Number of resamples.
        together: Number of intervals that hold together (Bonferroni).
    """
    value = float(statistic(torch.ones(1, len(pairs), dtype=torch.float64)))
    domains = len({name for pair in pairs for name in pair})
    low = high = math.nan
    if domains >= FEWEST:
        weights = pair_weights(pairs, draws, Randomness(0, scope="atlas").generator("domains"))
        found = statistic(weights[weights.sum(1) > 0])
        found = found[found.isfinite()]
        if len(found) > draws // 2:
            level = float(norm.cdf(math.sqrt(domains / (domains - 1)) * t.ppf(TAIL / together, domains - 1)))
            low, high = torch.quantile(found, torch.tensor([level, 1 - level], dtype=found.dtype)).tolist()
    return Interval(value, low, high, len(pairs), domains)


def found_by(chosen: Sequence[Translation], name: str = FOUND) -> Interval:
    """The mean of a number over pairs of domains.

    Args:
        chosen: The pairs, one setting each.
        name: The number.
    """
    values = torch.tensor([each.numbers[name] for each in chosen], dtype=torch.float64)
    return over_domains([(t.source, t.target) for t in chosen], lambda w: weighted_mean(w, values))


def difference(first: Sequence[Translation], second: Sequence[Translation], name: str = FOUND) -> Interval | None:
    """The mean difference of a number, first minus second, over the pairs that both settings have learnt.

    Args:
        first: Pairs of one setting.
        second: Pairs of the other one.
        name: The number.

    Returns:
        None where no pair is common.
    """
    theirs = {(t.source, t.target): t.numbers[name] for t in second}
    mine = {(t.source, t.target): t.numbers[name] for t in first}
    gaps = {pair: value - theirs[pair] for pair, value in mine.items() if pair in theirs}
    if not gaps:
        return None
    values = torch.tensor(list(gaps.values()), dtype=torch.float64)
    return over_domains(list(gaps), lambda w: weighted_mean(w, values))


def predicted_by(chosen: Sequence[Translation], predictor: str, together: int = 1) -> Interval | None:
    """Spearman's correlation of what is known before and the rank of the partner, over pairs of domains.

    Args:
        chosen: The pairs, one setting each.
        predictor: One of ``PREDICTORS``.
        together: Number of such intervals that hold together.

    Returns:
        None for fewer than ``FEWEST`` pairs in which the predictor is known, and where it is the same in all.
    """
    known = [(t, PREDICTORS[predictor](t.numbers)) for t in chosen]
    known = [(t, x) for t, x in known if math.isfinite(x)]
    if len(known) < FEWEST or len({x for _, x in known}) < 2:
        return None
    x = torch.tensor([value for _, value in known], dtype=torch.float64)
    y = torch.tensor([t.numbers[FOUND] for t, _ in known], dtype=torch.float64)
    return over_domains(
        [(t.source, t.target) for t, _ in known], lambda w: weighted_correlation(w, x, y), together=together
    )
