"""How far a tuned flow is from the true tilt: every number here is 0 (or its floor) for the exactly tilted field."""

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
from flowport.metric.transport import wasserstein_2
from flowport.problem import Problem
from flowport.problem.base import REACH
from flowport.sampling.divergence import ExactDivergence
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.likelihood import Likelihood
from flowport.types import Condition, Sample


class KnownAdapter(Adapter):
    """Δv of a field that is known already."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return self.field.velocity(x, t, condition) - base


def exact(problem: Problem, strength: float) -> TiltedField:
    """The exactly tilted field as a tuned one: what a perfect method would return."""
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
    """Errors of a tuned field to the tilt p e^{λr}, and its place beside the exact frontier:

    velocity_error: E|u − u*|² / E|u* − u_base|² over points of the tilted paths and times. weight_error: largest error
    of a component's share of the problem's sampler's results, mean over starts. mean_error: of the mean per start, rms
    over starts, in shifts of the tilt, less the noise of so few points. w2, w2_floor: distances to points of the tilt,
    of results and of other points of the tilt. sampled_reward: E r of the results. Of a chain from other starts:
    kl: E S, S = log dP/dP_base of a path of the chain: the KL of its path law to the base (the control's energy), so at
    least that of its results; reward: E r of the same results, so that both lie on or below the frontier (Gibbs), up
    to O(h); kl_to_tilt: E[S − λr] + log Z = KL(paths ‖ tilted paths), without noise at the tilt, where S = λr − log Z.
    energy: E Σ h s²|G|²/2, which is E S with other noise. frontier_reward: the largest E r with this kl.
    exact_kl, exact_reward: of the tilt from the same starts; base_reward: of the base. In problems of noise also of the
    chain: chain_weight_error, chain_w2, and own_weight_error: of the sampler's shares to those of the chain's paths
    weighted by e^{λr − S}, which is the tilt of whatever base was tuned; own_effective: the size of those weights; and
    of the law of the sampler's results itself what ``of_results`` says.
    """
    start = problem.scored_starts(points, generator)
    condition = field.conditioning.sampling(Sample(start), None)
    law, _ = problem.tilt(strength, start)
    result = sampled(field, problem, start, condition, generator)
    found = {"velocity_error": velocity_error(field, problem, strength, generator)}
    share = _groups(law.posterior(result) - law.weights, problem.groups)
    found["weight_error"] = float(share.abs().amax(1).mean())
    miss, shift = (
        _groups(a.double() - b, problem.groups).square().sum()
        for a, b in ((result, law.mean), (law.mean.expand(points, -1), problem.base_law(start).mean))
    )
    spread = result.double().unflatten(0, (problem.groups, -1))
    noise = spread.var(1).sum() / spread.shape[1]
    found["mean_error"] = float(((miss - noise).clamp_min(0) / shift).sqrt())
    one, two = law.draw(points, generator), law.draw(points, generator)
    some = torch.arange(0, points, max(1, points // transported))
    found["w2"] = float(wasserstein_2(result[some].double(), one[some]))
    found["w2_floor"] = float(wasserstein_2(two[some], one[some]))
    chain = start if problem.groups == 1 else problem.source.sample(points, generator).x
    paths = walked(field, problem, chain, generator)
    found |= {"sampled_reward": _reward(problem, result)} | _beside(paths, problem, strength, chain)
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
            "chain_w2": float(wasserstein_2(end[some].double(), one[some])),
            "own_weight_error": float((w @ seen - law.posterior(result).mean(0)).abs().max()),
            "own_effective": float(effective(w, 1)),
        }
    )


def of_results(
    field: Field, problem: Problem, strength: float, result: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """The true place of results (n, d) of the sampler's ODE, whose density q is known by the change of variables:

    law_kl: E log q/p_base; law_reward: E r of the same points; law_frontier_reward: the largest E r with this KL, above
    which no law lies; law_kl_to_tilt: E log q/p_tilt, without noise where q is the tilt.
    """
    solver, grid, _ = problem.sampler
    counted = Likelihood(field, problem.source, solver, grid, ExactDivergence(), chunk=1024)
    log_q = counted.log_prob(Sample(result), generator)[0].double()
    origin = result[:1]
    base, tilt = problem.base_law(origin), problem.tilt(strength, origin)[0]
    kl = float((log_q - base.log_prob(result)).mean())
    line = problem.frontier(strength * REACH, origin)
    return {
        "law_kl": kl,
        "law_reward": _reward(problem, result),
        "law_frontier_reward": float(np.interp(kl, line[0].numpy(), line[1].numpy())),
        "law_kl_to_tilt": float((log_q - tilt.log_prob(result)).mean()),
    }


def walked(field: TiltedField, problem: Problem, start: Tensor, generator: torch.Generator) -> ControlledPaths:
    """Paths of the problem's chain from starts (n, d)."""
    begin = field.path.start(start, torch.randn(start.shape, generator=generator))
    return roll_out(
        problem.discretisation, field.base, begin, field.conditioning.sampling(Sample(start), None), generator, field
    )


def _beside(paths: ControlledPaths, problem: Problem, strength: float, start: Tensor) -> dict[str, float]:
    """The place of the chain's paths beside the frontier."""
    kl, reward = float(paths.log_ratio.double().mean()), _reward(problem, paths.states[-1])
    line, best = problem.frontier(strength * REACH, start), problem.frontier(torch.tensor([strength]), start)
    return {
        "kl": kl,
        "energy": float(paths.energy.mean()),
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
    """What the lean adjoint shows of the answer G under the exactly tilted chain, at the times 0.2 … 0.8: slope, the
    value of E[−a·G]/E|G|² that is farthest from 1, and signal, the least E|G|²/E|a + G|². Adjoint matching can be
    asked for the tilt where slope is within 0.1 of 1 and signal at least 0.3
    (``flowport.finetuning.certificate.adjoint_snr`` estimates
    both without knowing the answer)."""
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
    """Results of the problem's sampler from starts (n, d)."""
    solver, grid, volatility = problem.sampler
    begin = field.path.start(start, torch.randn(start.shape, generator=generator))
    return solver.solve(Dynamics(field, condition, volatility), begin, grid.times(field.path), generator).end


def velocity_error(
    field: Field, problem: Problem, strength: float, generator: torch.Generator, n: int = 16384
) -> float:
    """E|u − u*|² / E|u* − u_base|² over n points of the tilted path law, at n times spread evenly over [0, 1]."""
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
    """Means of rows (n, k) over each of equal parts, (groups, k)."""
    return rows.unflatten(0, (groups, -1)).mean(1)


def _reward(problem: Problem, x: Tensor) -> float:
    return float(problem.reward.value(x, Condition()).double().mean())
