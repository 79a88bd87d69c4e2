"""The stochastic sampler of EDM on any path whose source is noise."""

import math

from scipy.optimize import brentq
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, forwards
from flowport.sampling.solver.exponential import weights
from flowport.sampling.solver.runge_kutta import Heun


class Churn(FixedStep):
    """Every step goes back to the time u < t at which σ = α/β is (1 + churn) times as large, with fresh noise,

        x_u = (β_u/β_t) x_t + inflation · α_u √(1 − (1 + churn)⁻²) ξ,

    which has the law p_u if x_t has p_t and inflation = 1, and then forwards by Heun's step of the ODE; the last
    returns E[x1 | x_u]. On path=variance_exploding it is Algorithm 2 of Karras et al. (2022), inflation their S_noise.
    No noise where σ cannot grow so much (t = 0). Order 2 in its moments; forwards only.

    Raises FlowportError unless churn ≥ 0 and inflation > 0, and for a bridge.
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
        super().accept(field)
        if field.path.bridge:
            raise FlowportError("solver=churn needs a source that is the path's only noise: use solver=ancestral")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        forwards("churn", t, s)
        assert noise is not None
        flow = dynamics.flow()
        self.accept(flow.field)
        u = self.back(flow.field.path, t)
        if u < t:
            kept = weights(flow.field.path, u)[1] / weights(flow.field.path, t)[1]
            fresh = weights(flow.field.path, u)[0] * math.sqrt(1 - (1 + self.churn) ** -2)
            x = kept * x + self.inflation * fresh * noise
        if last:
            return flow.endpoints(x, dynamics.times(u, x))[1]
        return Heun().step(dynamics, x, u, s, None, last)

    def back(self, path: Path, t: float) -> float:
        """u with σ(u) = (1 + churn) σ(t), or t itself where there is none in the path's interval."""
        alpha, beta = weights(path, t)

        def beyond(u: float) -> float:
            a, b = weights(path, u)
            return a * beta - (1 + self.churn) * alpha * b

        low = path.interval[0]
        return t if t <= low or beyond(low) <= 0 else float(brentq(beyond, low, t))
