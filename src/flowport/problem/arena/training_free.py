"""A sampler without training on one problem at one strength, scored against the exact tilt."""

import time

import torch

from flowport.errors import FlowportError
from flowport.problem import Problem
from flowport.problem.arena.duel import CountingReward
from flowport.problem.arena.score import adjoint_sees, beside_frontier, of_points
from flowport.randomness import Randomness
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.solver import FeynmanKac, Solver
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Sample


@torch.no_grad()
def training_free(
    problem: Problem, solver: Solver, strength: float, seed: int = 0, points: int = 2048
) -> dict[str, float]:
    """Draw results by particles from the exact base of a problem, and score them against the exact tilt.

    Steps are those of the problem's discretisation. The law of the results has no known density; with the estimate Ẑ of
    each result's population, and the exact Z, its KL to the tilt is at most

        kl_to_tilt = log Z − E log Ẑ,    and its KL to the base at most    kl = kl_to_tilt + λ E r − log Z

    (Maddison et al. 2017), as the KL of a path law is at least that of its results. Both hold for the base chain of
    these steps, whose results differ from the problem's exact base by O(h) in the step h. There is no velocity_error.

    Args:
        problem: The problem.
        solver: The sampler, ``flowport.sampling.solver.FeynmanKac``; reward and strength are those of the problem.
        strength: Strength λ of the reward.
        seed: Seed of results and scores.
        points: Number of results, a multiple of the problem's ``groups``.

    Returns:
        ``arena/<name>`` of ``score.of_points``, ``score.beside_frontier`` and ``score.adjoint_sees``, arena/calls of
        the reward for all results, and ``train/seconds`` and ``train/steps`` (0).

    Raises:
        FlowportError: For another solver, and numbers of points that do not fit.

    References:
        Maddison et al. 2017, "Filtering variational objectives", arXiv:1705.09279.
    """
    if not isinstance(solver, FeynmanKac):
        raise FlowportError("the arena runs solver=feynman_kac or solver=twisted without a method: leave solver out")
    if points < 2 * problem.groups or points % problem.groups:
        raise FlowportError(f"points={points} must be a multiple of {problem.groups}, at least twice")
    reward, randomness = CountingReward(problem.reward), Randomness(seed).under("arena")
    generator, base = randomness.generator("judge"), problem.base
    start = problem.scored_starts(points, generator)
    begin = base.path.start(start, torch.randn(start.shape, generator=generator))
    dynamics = Dynamics(base, base.conditioning.sampling(Sample(start), None), ZeroVolatility())
    since = time.perf_counter()
    sampler = solver.given(reward, strength)
    sampler.accept(base)
    found = sampler.results(dynamics, begin, problem.discretisation.grid.times(base.path), generator)
    seconds = time.perf_counter() - since
    result = found.states[-1]
    shown, _ = of_points(problem, strength, start, result, generator, 2048)
    log_z = problem.tilt(strength, start)[1].expand(points)
    to_tilt = float((log_z - found.log_normaliser.double()).mean())
    kl = to_tilt + strength * shown["sampled_reward"] - float(log_z.mean())
    shown |= beside_frontier(problem, strength, start, kl, shown["sampled_reward"])
    shown |= adjoint_sees(problem, strength, randomness.generator("adjoint_snr"))
    return {f"arena/{name}": float(number) for name, number in shown.items()} | {
        "arena/calls": reward.calls,
        "train/seconds": round(seconds, 2),
        "train/steps": 0,
    }
