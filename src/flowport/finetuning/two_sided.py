"""Two-sided estimates of how far a tuned chain Q is from the tilt Π of its base chain P, with standard errors.

Along n paths of each chain let ℓ = log dQ/dP and r = λ·(reward of the result), and dΠ/dP = e^r/Z within every group of
paths that share a class or a start. All paths of a group are weighted together by the balance heuristic

    u = e^r / (½ + ½ e^ℓ),   Ẑ = mean u,   û = u/Ẑ,   h = r − ℓ − log Ẑ,

so that u ≤ 2 min(e^r, Z dΠ/dQ) is bounded where one of the two chains covers the tilt. Then

    KL(Q‖Π) = log Ẑ − mean_Q (r − ℓ),   KL(Π‖Q) = mean û h,   E_Π f = mean û f,   KL(Q‖P) = mean_Q ℓ.

Each of them is a mean over pairs (one tuned and one base path of one group) of an influence function, whose spread over
pairs, or over starts where each start has several, is the standard error: of both strata, and of the draw of classes or
starts. Logarithms and ratios of means within a group have a bias O(1/paths of the group) that does not average out over
groups; it is removed by the jackknife, and the part of it that may remain is added to the error.

A mode of the tilt that neither chain visits is in none of these numbers.

References:
    Veach and Guibas 1995, "Optimally combining sampling techniques for Monte Carlo rendering",
        doi:10.1145/218380.218498 (balance heuristic).
    Owen and Zhou 2000, "Safe and effective importance sampling", doi:10.1080/01621459.2000.10473909 (deterministic
        mixture sampling).
    Efron and Stein 1981, "The jackknife estimate of variance", doi:10.1214/aos/1176345462.
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flowport.finetuning.path_weights import halves, largest_gap
from flowport.tensors import standard_error

LEFT = 0.25
"""Share of the jackknife's correction that is added to the standard error, since it may remain as bias."""
COORDINATES = 2**21
"""Largest number of features times paths of which means are taken at once."""


@dataclass(frozen=True)
class Stated:
    """An estimate with its standard error.

    Args:
        value: The estimate, (…).
        error: Its standard error, (…).
        correction: What the jackknife has added to it, (…).
    """

    value: Tensor
    error: Tensor
    correction: Tensor


@dataclass(frozen=True)
class TwoSided:
    """Estimates from n tuned and n base paths; leading dimensions are independent certificates.

    Args:
        reward: r = λ·reward of the results, (…, 2, n): of the tuned paths, then of the base paths.
        log_ratio: ℓ = log dQ/dP along the same paths, (…, 2, n), in nats.
        group: Number of the group of the k-th tuned and of the k-th base path, (…, n) int64, in [0, groups).
        groups: Number of groups; every one has at least 2 pairs or none.
        clustered: Whether a group is one draw of a start, with equally many pairs in every group, so that standard
            errors are taken over groups; else over pairs.
        unit: What a group then is, in the plural, for messages.
    """

    reward: Tensor
    log_ratio: Tensor
    group: Tensor
    groups: int = 1
    clustered: bool = False
    unit: str = "starts"

    @property
    def paths(self) -> int:
        """Number of tuned paths, which is that of base paths."""
        return self.reward.shape[-1]

    @cached_property
    def _counts(self) -> Tensor:
        """Number of pairs of every group, (…, groups)."""
        return self._sums(torch.ones_like(self.reward[..., 0, :]))

    def _sums(self, values: Tensor) -> Tensor:
        """Sums over the pairs of every group, (…, n) -> (…, groups)."""
        index = self.group.expand(values.shape)
        return values.new_zeros(*values.shape[:-1], self.groups).scatter_add(-1, index, values)

    def _of(self, values: Tensor) -> Tensor:
        """The value of every pair's group, (…, groups) -> (…, n)."""
        return values.gather(-1, self.group.expand(*values.shape[:-1], self.paths))

    @cached_property
    def _log_u(self) -> Tensor:
        """log u of all paths, (…, 2, n)."""
        return self.reward - torch.logaddexp(torch.zeros_like(self.log_ratio), self.log_ratio) + math.log(2)

    @cached_property
    def _relative(self) -> tuple[Tensor, Tensor]:
        """u over the largest of its group, (…, 2, n), and the logarithms of these largest, (…, groups)."""
        both = self._log_u.amax(-2)
        low = both.new_full((*both.shape[:-1], self.groups), -torch.inf)
        top = low.scatter_reduce(-1, self.group.expand(both.shape), both, "amax")
        top = torch.where(top.isfinite(), top, 0.0)  # a group without paths
        return (self._log_u - self._of(top)[..., None, :]).exp(), top

    @cached_property
    def _pair(self) -> Tensor:
        """Mean of u over the two paths of a pair, relative to the largest, (…, n)."""
        return self._relative[0].mean(-2)

    @cached_property
    def _total(self) -> Tensor:
        """Sum of ``_pair`` over every group, (…, groups)."""
        return self._sums(self._pair)

    @cached_property
    def log_z(self) -> Tensor:
        """log Ẑ of every group, without the jackknife's correction, (…, groups)."""
        return (self._total / self._counts).log() + self._relative[1]

    @cached_property
    def weights(self) -> Tensor:
        """û = u/Ẑ of all paths, of mean 1 over both chains of every group, (…, 2, n)."""
        return self._relative[0] * self._of(self._counts / self._total)[..., None, :]

    @cached_property
    def effective(self) -> Tensor:
        """Effective number of all 2n weights, (Σ û)²/Σ û², (…)."""
        return self.weights.sum((-2, -1)).square() / self.weights.square().sum((-2, -1))

    def _correction(self, value: Tensor, left_out: Tensor) -> Tensor:
        """The jackknife's correction (n_g − 1)(θ − mean θ₍₋ᵢ₎) of a value of every group, (…, groups).

        Args:
            value: θ, (…, groups).
            left_out: θ₍₋ᵢ₎, the value of the pair's group without the pair, (…, n).
        """
        return (self._counts - 1) * (value - self._sums(left_out) / self._counts)

    @cached_property
    def _log_z_correction(self) -> Tensor:
        rest, count = self._of(self._total) - self._pair, self._of(self._counts)
        left_out = (rest.clamp_min(1e-300) / (count - 1)).log() + self._of(self._relative[1])
        return self._correction(self.log_z, left_out)

    def _ratio(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted means of values (…, 2, n) in every group, their corrections, and those of every path's group."""
        product = (self._relative[0] * values).mean(-2)
        mean = self._sums(product) / self._total
        rest = (self._of(self._total) - self._pair).clamp_min(1e-300)
        left_out = (self._of(self._sums(product)) - product) / rest
        return mean, self._correction(mean, left_out), self._of(mean)[..., None, :]

    def _over_pairs(self, by_group: Tensor) -> Tensor:
        """Mean over pairs of a value of every group, (…, groups) -> (…); a group without pairs has none."""
        return torch.where(self._counts > 0, self._counts * by_group, 0.0).sum(-1) / self.paths

    def error(self, influence: Tensor) -> Tensor:
        """Standard error of the mean of an influence function over pairs, or over starts, (…).

        Args:
            influence: One value per pair, (…, n).
        """
        units = self._sums(influence) / self._counts if self.clustered else influence
        return standard_error(units)

    def stated(self, influence: Tensor, correction: Tensor | None = None) -> Stated:
        """The mean of an influence function over pairs, corrected, with its standard error.

        Args:
            influence: One value per pair, (…, n), whose mean is the estimate.
            correction: The jackknife's correction of every group, (…, groups); None for none.
        """
        if correction is None:
            return Stated(influence.mean(-1), self.error(influence), torch.zeros_like(influence[..., 0]))
        added = self._over_pairs(correction)
        corrected = influence + self._of(correction)
        return Stated(corrected.mean(-1), (self.error(corrected).square() + (LEFT * added).square()).sqrt(), added)

    @cached_property
    def kl_to_tilt(self) -> Stated:
        """KL(Q‖Π) in nats: at least that of the results of the chain to the tilted results."""
        gain = (self.reward - self.log_ratio)[..., 0, :]
        return self.stated(self.weights.mean(-2) - 1 + self._of(self.log_z) - gain, self._log_z_correction)

    @cached_property
    def kl_from_tilt(self) -> Stated:
        """KL(Π‖Q) in nats, large where the tuned chain has lost what the tilt holds."""
        lead = self.reward - self.log_ratio
        mean, correction, of_path = self._ratio(lead)
        kl = self._of(mean - self.log_z)
        inner = (self.weights * (lead - of_path - 1)).mean(-2)  # −1: the influence of log Ẑ itself
        return self.stated(kl + 1 + inner, correction - self._log_z_correction)

    @cached_property
    def kl_to_base(self) -> Stated:
        """KL(Q‖P) in nats."""
        return self.stated(self.log_ratio[..., 0, :])

    @cached_property
    def elbo(self) -> Stated:
        """Evidence lower bound E_Q[λr] − KL(Q‖P) = log Z − KL(Q‖Π) in nats, from the tuned paths without weights."""
        return self.stated((self.reward - self.log_ratio)[..., 0, :])

    @cached_property
    def reward_of_tuned(self) -> Stated:
        """Mean of r over the tuned chain."""
        return self.stated(self.reward[..., 0, :])

    @cached_property
    def reward_of_base(self) -> Stated:
        """Mean of r over the base chain."""
        return self.stated(self.reward[..., 1, :])

    @cached_property
    def _tilted_reward(self) -> tuple[Tensor, Tensor]:
        mean, correction, of_path = self._ratio(self.reward)
        return self._of(mean) + (self.weights * (self.reward - of_path)).mean(-2), correction

    @cached_property
    def reward_of_tilt(self) -> Stated:
        """Mean of r over the tilt."""
        return self.stated(*self._tilted_reward)

    @cached_property
    def gain_of_tilt(self) -> Stated:
        """Mean of r over the tilt less that over the base, which is all there is to gain."""
        influence, correction = self._tilted_reward
        return self.stated(influence - self.reward[..., 1, :], correction)

    @cached_property
    def share(self) -> Stated:
        """Share of the gain, (mean_Q r − mean_P r)/(E_Π r − mean_P r), with the error of the delta method."""
        tuned, base = self.reward.unbind(-2)
        influence, correction = self._tilted_reward
        gain = self.gain_of_tilt.value
        share = (tuned - base).mean(-1) / gain
        rows = (tuned - base - share[..., None] * (influence - base)) / gain[..., None]
        found = self.stated(rows, -(share / gain)[..., None] * correction)
        return Stated(share, found.error, found.correction)

    @cached_property
    def log_z_error(self) -> Tensor:
        """Standard error of log Ẑ of every group, from its own paths alone, (…, groups)."""
        centred = self.weights.mean(-2) - 1
        return (self._sums(centred.square()) / (self._counts * (self._counts - 1)).clamp_min(1)).sqrt()

    @cached_property
    def memory(self) -> Stated:
        """Variance over starts of log Z, (…), in nats²: 0 where the tilt start by start is the tilt of all results.

        The noise of the estimates is subtracted; the error is over starts.
        """
        log_z, noise = self.log_z + self._log_z_correction, self.log_z_error.square()
        each = (log_z - log_z.mean(-1, keepdim=True)).square() * self.groups / max(1, self.groups - 1) - noise
        return Stated(each.mean(-1), standard_error(each), -noise.mean(-1))

    def mean_gap(self, feature: Tensor) -> Stated:
        """Clearest difference of a coordinate's mean between tuned chain and tilt, in standard deviations of the tilt.

        The halves of ``largest_gap`` are those of the pairs, or of the starts.

        Args:
            feature: Features of the results of the tuned paths, then of the base paths, (2, n, d).
        """
        pieces = feature.split(max(1, COORDINATES // feature.shape[1]), -1)
        spread, means, errors = (torch.cat(part, -1) for part in zip(*map(self._gaps, pieces), strict=True))
        value, error = largest_gap(means, errors, spread)
        return Stated(value, error, torch.zeros_like(value))

    def _gaps(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Deviations of the tilt, (d,), and differences of means and their errors on both halves, (2, d)."""
        f = feature.double().movedim(-1, 0)  # (d, 2, n)
        mean, _, of_path = self._ratio(f)
        centre = self._over_pairs(mean)[:, None, None]
        spread = (self.weights * (f - centre).square()).mean((-2, -1)).clamp_min(0).sqrt()
        rows = f[:, 0] - self._of(mean) - (self.weights * (f - of_path)).mean(-2)
        units = self._sums(rows) / self._counts if self.clustered else rows
        return spread, *halves(units.T)

    @cached_property
    def tails(self) -> dict[str, Tensor]:
        """Log of the size of what is averaged over all paths, pooled over groups, (…, 2n) by name.

        weights: û; kl_from_tilt: û (1 + |h|), which bounds its influence function û (h − KL − 1) up to a multiple of û;
        reward: û |r − E_Π r|.
        """
        log_u = self._log_u - self._of(self.log_z)[..., None, :]
        lead = self.reward - self.log_ratio - self._of(self.log_z)[..., None, :]
        away = (self.reward - self._ratio(self.reward)[2]).abs().clamp_min(1e-9)
        sizes = {"weights": torch.zeros_like(lead), "kl_from_tilt": lead.abs().log1p(), "reward": away.log()}
        return {name: (log_u + size).flatten(-2) for name, size in sizes.items()}
