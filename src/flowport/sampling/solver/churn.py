"""The stochastic sampler of EDM, on any path whose source is the noise."""

import math

from scipy.optimize import brentq
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, require_forward
from flowport.sampling.solver.exponential import weights
from flowport.sampling.solver.runge_kutta import Heun


class Churn(FixedStep):
    """Stochastic sampler of EDM, which adds noise before every step of Heun's method for the ODE.

    A step from t first goes back to the time u < t at which σ = α/β is (1 + churn) times as large,

        x_u = (β_u/β_t) x_t + inflation · α_u √(1 − (1 + churn)⁻²) ξ,     ξ ~ N(0, I),

    which has the law p_u if x_t has the law p_t and inflation = 1. It then takes Heun's step of the ODE from u; the
    last step returns E[x1 | x_u]. Where there is no such u on the path, as at t = 0, no noise is added. The moments
    converge with order 2. Forwards only.

    On path=variance_exploding this is Algorithm 2 of Karras et al. with churn = γ_i at every step and
    inflation = S_noise.

    Args:
        churn: Relative increase of σ, at least 0.
        inflation: Factor of the added noise, > 0.

    Raises:
        FlowportError: Unless churn ≥ 0 and inflation > 0.

    References:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364,
        Algorithm 2.
    """

    order = None
    stochastic = True
    needs_score = True
    calls = 2

    def __init__(self, churn: float = 0.2, inflation: float = 1.0) -> None:
        if churn < 0 or inflation <= 0:
            raise FlowportError(f"solver=churn needs churn ≥ 0 and inflation > 0, not {churn} and {inflation}")
        self.churn, self.inflation = churn, inflation

    def accept(self, field: Field) -> None:
        """Check that this solver supports a field.

        Args:
            field: The field.

        Raises:
            FlowportError: For a field without a score or on a bridge path.
        """
        super().accept(field)
        if field.path.bridge:
            raise FlowportError("solver=churn needs a source that is the path's only noise: use solver=ancestral")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        require_forward("churn", t, s)
        assert noise is not None
        flow = dynamics.flow()
        self.accept(flow.field)
        u = self.back(flow.field.path, t)
        if u < t:
            shrinkage = weights(flow.field.path, u)[1] / weights(flow.field.path, t)[1]
            spread = weights(flow.field.path, u)[0] * math.sqrt(1 - (1 + self.churn) ** -2)
            x = shrinkage * x + self.inflation * spread * noise
        if last:
            return flow.endpoints(x, dynamics.times(u, x))[1]
        return Heun().step(dynamics, x, u, s, None, last)

    def back(self, path: Path, t: float) -> float:
        """The time u with σ(u) = (1 + churn) σ(t), or t itself where there is none in the path's interval.

        Args:
            path: The path, whose σ = α/β decreases.
            t: The time before the step.
        """
        alpha, beta = weights(path, t)

        def beyond(u: float) -> float:
            a, b = weights(path, u)
            return a * beta - (1 + self.churn) * alpha * b

        low = path.interval[0]
        return t if t <= low or beyond(low) <= 0 else float(brentq(beyond, low, t))
