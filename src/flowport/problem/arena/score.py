"""Scores of a tuned flow against the exact tilt; each is 0, or equal to its floor, for the exactly tilted field."""

import numpy as np
import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.adjoint import ControlledPaths, lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.path_weights import effective, normalised
from flowport.finetuning.tilted_field import TiltedField
from flowport.metric.wasserstein import wasserstein_2
from flowport.problem import Problem
from flowport.problem.base import STRENGTH_MULTIPLES
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.types import Condition, Sample


class KnownAdapter(Adapter):
    """The change Δv of velocity that turns a base into a given field.

    Args:
        field: The field.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        """Change of the velocity Δv = v_field − v_base, (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            base: The base's velocity at (x, t), (B, *D).
            gains: Not used.
        """
        return self.field.velocity(x, t, condition) - base


def exact(problem: Problem, strength: float) -> TiltedField:
    """The exactly tilted field in the form of a tuned one, the result of a perfect method.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.
    """
    return TiltedField(problem.base, KnownAdapter(problem.tilted(strength)))


@torch.no_grad()
def score(
    field: TiltedField,
    problem: Problem,
    strength: float,
    generator: torch.Generator,
    points: int = 8192,
    transported: int = 2048,
    dense: int = 2048,
) -> dict[str, float]:
    """Errors of a tuned field to the tilt p e^{λr}/Z, and its position relative to the exact frontier.

    Results of the problem's sampler, from ``points`` starts of ``scored_starts``:

        velocity_error   E|u − u*|² / E|u* − u_base|² on paths of the tilt (``velocity_error``);
        weight_error     largest error of the share of a component, mean over groups of starts;
        mean_error       error of the mean of a group, rms over groups, relative to the shift of the mean by the tilt,
                         less the expected error of finitely many points;
        w2, w2_floor     W2 to points of the tilt, of the results and of other points of the tilt;
        sampled_reward   E r.

    Paths of the discretised SDE, with S = log dP/dP_base of a path:

        kl               E S, the KL of the path law to the base, at least that of the law of the results;
        energy           E Σ h s²|G|²/2, the control energy, an estimate of the same number;
        reward           E r of the same results; (kl, reward) is on or below the frontier, up to O(h);
        frontier_reward  largest E r of a law with this kl;
        kl_to_tilt       E[S − λr] + log Z = KL(paths ‖ tilted paths), without noise at the tilt, where S = λr − log Z;
        exact_kl, exact_reward, base_reward    of the tilt and of the base, from the same starts.

    Where the law does not depend on the start, also ``chain_weight_error`` and ``chain_w2`` of the results of these
    paths; ``own_weight_error`` of the sampler's shares to those of the paths weighted by e^{λr − S}, which represent
    the tilt of whatever base was tuned; ``own_effective``, the effective sample size of these weights, a share; and
    ``of_results``.

    Args:
        field: The tuned field.
        problem: The problem.
        strength: Strength λ of the reward.
        generator: Randomness of the scores.
        points: Number of results, a multiple of the problem's ``groups``.
        transported: Approximate number of points for W2.
        dense: Number of results whose density is computed.

    Returns:
        The scores by name.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861 (path law and control energy).
    """
    start = problem.scored_starts(points, generator)
    condition = field.conditioning.sampling(Sample(start), None)
    law, _ = problem.tilt(strength, start)
    result = sampled(field, problem, start, condition, generator)
    found = {"velocity_error": velocity_error(field, problem, strength, generator)}
    shown, one = of_points(problem, strength, start, result, generator, transported)
    subset = _subset(points, transported)
    origin = start if problem.groups == 1 else problem.source.sample(points, generator).x
    paths = walked(field, problem, origin, generator)
    kl = float(paths.log_ratio.double().mean())
    found |= shown | beside_frontier(problem, strength, origin, kl, _reward(problem, paths.states[-1]))
    found["energy"] = float(paths.energy.mean())
    if problem.groups > 1:
        return found
    end = paths.states[-1]
    w = normalised(strength * problem.reward.value(end, condition).double() - paths.log_ratio.double(), 1)
    seen = law.posterior(end)
    return (
        found
        | of_results(field, problem, strength, result[:dense], generator)
        | {
            "chain_weight_error": float((seen.mean(0) - law.weights[0]).abs().max()),
            "chain_w2": float(wasserstein_2(end[subset].double(), one[subset])),
            "own_weight_error": float((w @ seen - law.posterior(result).mean(0)).abs().max()),
            "own_effective": float(effective(w, 1)),
        }
    )


def of_points(
    problem: Problem, strength: float, start: Tensor, result: Tensor, generator: torch.Generator, transported: int
) -> tuple[dict[str, float], Tensor]:
    """Errors of results against the tilt, by points alone: the five of ``score`` that no field is needed for.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.
        start: Starts of the results, (n, d), as of ``scored_starts``.
        result: Results, (n, d).
        generator: Randomness of the points of the tilt.
        transported: Approximate number of points for W2.

    Returns:
        weight_error, mean_error, w2, w2_floor and sampled_reward by name, and the points of the tilt of w2, (n, d).
    """
    n, law = len(result), problem.tilt(strength, start)[0]
    share = _groups(law.posterior(result) - law.weights, problem.groups)
    found = {"weight_error": float(share.abs().amax(1).mean())}
    miss, shift = (
        _groups(a.double() - b, problem.groups).square().sum()
        for a, b in ((result, law.mean), (law.mean.expand(n, -1), problem.base_law(start).mean))
    )
    spread = result.double().unflatten(0, (problem.groups, -1))
    noise = spread.var(1).sum() / spread.shape[1]
    found["mean_error"] = float(((miss - noise).clamp_min(0) / shift).sqrt())
    one, two = law.draw(n, generator), law.draw(n, generator)
    subset = _subset(n, transported)
    found["w2"] = float(wasserstein_2(result[subset].double(), one[subset]))
    found["w2_floor"] = float(wasserstein_2(two[subset], one[subset]))
    return found | {"sampled_reward": _reward(problem, result)}, one


def _subset(n: int, transported: int) -> Tensor:
    """Rows of about ``transported`` of n points, evenly spaced."""
    return torch.arange(0, n, max(1, n // transported))


def of_results(
    field: Field, problem: Problem, strength: float, result: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """The position of the law q of the sampler's results relative to the frontier, from the exact density of q.

    The density is computed by the change of variables along the ODE.

        law_kl               E log q/p_base, in nats;
        law_reward           E r of the same results;
        law_frontier_reward  the largest E r of a law with this KL;
        law_kl_to_tilt       E log q/p_tilt, in nats, without noise where q is the tilt.

    Args:
        field: The tuned field.
        problem: A problem whose law does not depend on the start.
        strength: Strength λ of the reward.
        result: Results of the problem's sampler by its ODE, (n, d).
        generator: Randomness of the likelihood.

    Returns:
        The four numbers by name.
    """
    solver, grid, _ = problem.sampler
    counted = Likelihood(field, problem.source, solver, grid, ExactDivergence(), chunk=1024)
    log_q = counted.log_prob(Sample(result), generator)[0].double()
    origin = result[:1]
    base, tilt = problem.base_law(origin), problem.tilt(strength, origin)[0]
    kl = float((log_q - base.log_prob(result)).mean())
    line = problem.frontier(strength * STRENGTH_MULTIPLES, origin)
    return {
        "law_kl": kl,
        "law_reward": _reward(problem, result),
        "law_frontier_reward": float(np.interp(kl, line[0].numpy(), line[1].numpy())),
        "law_kl_to_tilt": float((log_q - tilt.log_prob(result)).mean()),
    }


def walked(field: TiltedField, problem: Problem, start: Tensor, generator: torch.Generator) -> ControlledPaths:
    """Paths of the problem's discretised SDE under a tuned field.

    Args:
        field: The tuned field.
        problem: The problem.
        start: Starts, (n, d).
        generator: Randomness of the paths.
    """
    begin = field.path.start(start, torch.randn(start.shape, generator=generator))
    return roll_out(
        problem.discretisation, field.base, begin, field.conditioning.sampling(Sample(start), None), generator, field
    )


def beside_frontier(problem: Problem, strength: float, start: Tensor, kl: float, reward: float) -> dict[str, float]:
    """The position of a law of this KL to the base and this mean reward relative to the frontier.

    For every law q of results KL(q ‖ tilt) = KL(q ‖ base) − λ E_q r + log Z.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.
        start: Starts of the results, (n, d).
        kl: KL to the base, in nats.
        reward: E r.

    Returns:
        kl, reward, frontier_reward, kl_to_tilt, exact_kl, exact_reward and base_reward of ``score`` by name.
    """
    line, best = (
        problem.frontier(strength * STRENGTH_MULTIPLES, start),
        problem.frontier(torch.tensor([strength]), start),
    )
    return {
        "kl": kl,
        "reward": reward,
        "frontier_reward": float(np.interp(kl, line[0].numpy(), line[1].numpy())),
        "kl_to_tilt": float(problem.tilt(strength, start)[1].mean()) - strength * reward + kl,
        "exact_kl": float(best[0]),
        "exact_reward": float(best[1]),
        "base_reward": float(line[1][0]),
    }


def adjoint_sees(
    problem: Problem,
    strength: float,
    generator: torch.Generator,
    n: int = 2048,
    discretisation: ConsistentDiscretisation | None = None,
) -> dict[str, float]:
    """How well the lean adjoint a shows the control G of the exactly tilted paths, at times 0.2 … 0.8.

        slope   the value of E[−a·G]/E|G|² that is farthest from 1;
        signal  the smallest E|G|²/E|a + G|².

    Adjoint matching is expected to reach the tilt where slope is within 0.1 of 1 and signal at least 0.3.
    ``flowport.finetuning.adjoint_snr.adjoint_snr`` estimates both without the exact control.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.
        generator: Randomness of the paths.
        n: Number of paths.
        discretisation: Discretisation of the SDE; None: 40 uniform steps.

    Returns:
        slope and signal, by name.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861.
    """
    discretisation, field = discretisation or ConsistentDiscretisation(UniformGrid(40)), exact(problem, strength)
    start = problem.source.sample(n, generator).x
    condition = field.conditioning.sampling(Sample(start), None)
    begin = field.path.start(start, torch.randn(start.shape, generator=generator))
    paths = roll_out(discretisation, field.base, begin, condition, generator, field)
    gradient = problem.reward.value_and_gradient(paths.states[-1], condition)[1]
    pull = -lean_adjoint(discretisation, problem.base, paths.states, condition, -strength * gradient)[1:-1]
    answer, times = paths.controls, torch.tensor(discretisation.noise_schedule(problem.base).times[:-2])
    inner = (times >= 0.2 - 1e-6) & (times <= 0.8 + 1e-6)
    size = answer.square().sum(2).mean(1)[inner]
    slope = (pull * answer).sum(2).mean(1)[inner] / size
    signal = size / (pull - answer).square().sum(2).mean(1)[inner]
    return {"slope": float(slope[(slope - 1).abs().argmax()]), "signal": float(signal.min())}


def sampled(field: Field, problem: Problem, start: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
    """Results of the problem's sampler, (n, d).

    Args:
        field: The field.
        problem: The problem.
        start: Starts, (n, d).
        condition: What the field is conditioned on, n rows.
        generator: Randomness of the sampler.
    """
    solver, grid, volatility = problem.sampler
    begin = field.path.start(start, torch.randn(start.shape, generator=generator))
    return solver.solve(Dynamics(field, condition, volatility), begin, grid.times(field.path), generator).end


def velocity_error(
    field: Field, problem: Problem, strength: float, generator: torch.Generator, n: int = 16384
) -> float:
    """Relative error E|u − u*|² / E|u* − u_base|² of the velocity over the law of the tilted paths.

    Args:
        field: The tuned field.
        problem: The problem.
        strength: Strength λ of the reward.
        generator: Randomness of the points.
        n: Number of points, at n times evenly spaced in [0, 1].
    """
    source = problem.source.sample(n, generator).x
    end = problem.tilt(strength, source)[0].draw(n, generator).float()
    t = (torch.arange(n) + 0.5) / n
    c = field.path.coefficients(t).over(source)
    x = c.alpha * source + c.beta * end
    if c.gamma is not None:
        x = x + c.gamma * torch.randn(x.shape, generator=generator)
    condition = field.conditioning.sampling(Sample(source), None)
    u, true, base = (f.velocity(x, t, condition) for f in (field, problem.tilted(strength), problem.base))
    return float((u - true).square().sum() / (true - base).square().sum())


def _groups(rows: Tensor, groups: int) -> Tensor:
    """Means over equal, contiguous groups of rows: (n, k) -> (groups, k)."""
    return rows.unflatten(0, (groups, -1)).mean(1)


def _reward(problem: Problem, x: Tensor) -> float:
    return float(problem.reward.value(x, Condition()).double().mean())
