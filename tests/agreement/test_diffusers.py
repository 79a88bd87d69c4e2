"""Samplers against the schedulers of diffusers (extra `diffusers`): the same denoiser, times and noise."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.path import LinearPath, TrigonometricPath
from flowport.prediction import TargetPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.solver import DDIM, Ancestral, DPMSolver, Euler
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition
from tests.laws.oracles import Composition, points

diffusers = pytest.importorskip("diffusers")

N = 10
TIMES = torch.cat([torch.linspace(0.05, 0.95, N, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
PATH = TrigonometricPath()  # variance preserving: ᾱ = β²
START = points(9)[0]


def moving(path):
    c = Composition(path, SourceIsNoise(), TargetPrediction())
    return Dynamics(c.field(c.joint("mixture")), Condition(), ZeroVolatility())


def ours(solver, path=PATH):
    return solver.solve(moving(path), START, TIMES, torch.Generator().manual_seed(0), all_states=True).states


def theirs(scheduler):
    """Their states, for which step k of N training steps is our time TIMES[N − 1 − k], and the output is ε."""
    x, states, generator = START, [START], torch.Generator().manual_seed(0)
    for k, step in enumerate(scheduler.timesteps):
        noise = moving(PATH).endpoints(x, TIMES[k].expand(9))[0]
        extra = {} if isinstance(scheduler, diffusers.DDIMScheduler) else {"generator": generator}
        x = scheduler.step(noise, step, x, **extra).prev_sample
        states.append(x)
    return torch.stack(states)


def betas():
    """Their per-step variances: 1 − ᾱ_k/ᾱ_(k−1), ᾱ from the cleanest to the noisiest time."""
    kept = PATH.beta(TIMES[:-1].flip(0)) ** 2
    return (1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])).numpy()


def made(kind, **options):
    scheduler = kind(num_train_timesteps=N, trained_betas=betas(), **options)
    scheduler.set_timesteps(N)
    return scheduler


def test_ddim():
    scheduler = made(diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=True)
    torch.testing.assert_close(theirs(scheduler), ours(DDIM()), rtol=0, atol=1e-5)


def test_ddpm():
    scheduler = made(diffusers.DDPMScheduler, clip_sample=False, variance_type="fixed_small")
    torch.testing.assert_close(theirs(scheduler), ours(Ancestral()), rtol=0, atol=1e-5)


def test_dpm_solver_multistep():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=N,
        trained_betas=betas(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=list(range(N))[::-1])
    torch.testing.assert_close(theirs(scheduler), ours(DPMSolver()), rtol=0, atol=1e-5)
    assert float((ours(DPMSolver()) - ours(DDIM()))[2:].abs().max()) > 1e-2


def test_flow_match_euler():
    """σ = 1 − t, and their velocity points to the noise."""
    scheduler, dynamics = diffusers.FlowMatchEulerDiscreteScheduler(), moving(LinearPath())
    scheduler.set_timesteps(sigmas=(1 - TIMES[:-1]).tolist())
    x, states = START, ours(Euler(), LinearPath())
    for k, step in enumerate(scheduler.timesteps):
        x = scheduler.step(-dynamics.velocity(x, TIMES[k].expand(9)), step, x).prev_sample
        torch.testing.assert_close(x.double(), states[k + 1], rtol=0, atol=1e-5)
