"""Predictions of one size at every time: the preconditioned denoiser of EDM and v-prediction.

Let n and ε be the weight and the value of the noise in x_t: α and x0, or γ and z on a bridge whose field is conditioned
on its start, where y = x_t − α x0 stands for x_t. Both predictions are a mean of p x1 + q ε, and with y = β x1 + n ε

    x̂1 = (n o − q y)/(p n − q β),    ε̂ = (p y − β o)/(p n − q β)

follow from the output o; p n − q β vanishes nowhere on a path without noise.

References:
    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364.
    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import FlowState, Prediction, endpoints, velocity_of

NODES = 2049
"""Times between which the inverse of the network's time is linear."""


class _Combination(Prediction):
    """The prediction of E[p x1 + q ε | x_t], with p and q functions of the path's coefficients."""

    @abstractmethod
    def weights(self, n: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The weights p of x1 and q of ε.

        Args:
            n: Weight of the noise in x_t, any shape.
            beta: Weight of x1 in x_t, the same shape.
        """

    def target(self, path: Path, sample: PathSample) -> Tensor:
        c = path.coefficients(sample.t).over(sample.x)
        n, noise = (c.alpha, sample.x0) if c.gamma is None or sample.z is None else (c.gamma, sample.z)
        p, q = self.weights(n, c.beta)
        return p * sample.x1 + q * noise

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        c = coefficients.over(x)
        n, y = c.alpha, x
        if c.gamma is not None:
            if start is None:
                raise FlowportError(
                    "this prediction is undefined on a bridge whose field does not see its start: use "
                    "prediction=bridge or velocity, or conditioning=source"
                )
            n, y = c.gamma, x - c.alpha * start
        p, q = self.weights(n, c.beta)
        determinant = p * n - q * c.beta
        target, noise = (n * output - q * y) / determinant, (p * y - c.beta * output) / determinant
        if c.gamma is None or start is None:
            return FlowState(x, velocity_of(noise, target, None, coefficients))
        return FlowState(x, velocity_of(start, target, noise, coefficients), noise)

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        source, target, noise = endpoints(flow_state, coefficients, start)
        c = coefficients.over(flow_state.x)
        n, noise = (c.alpha, source) if noise is None or c.gamma is None else (c.gamma, noise)
        p, q = self.weights(n, c.beta)
        return p * target + q * noise


class VPrediction(_Combination):
    """v-prediction, output = E[β ε − n x1 | x_t]: p = −n, q = β.

    On a variance-preserving path, n² + β² = 1, it has the variance of the data, and x̂1 = β x − n v, ε̂ = n x + β v.

    References:
        Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
    """

    def weights(self, n: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return -n, beta


class EDMPrediction(_Combination):
    """Preconditioned denoiser of EDM: x̂1 = c_skip x/β + c_out F(c_in x/β, t), and the network's output is F.

    With ς = n s/β the noise level, s the deviation of the noise and d that of the data,

        c_skip = d²/(ς² + d²),    c_out = ς d/√(ς² + d²),    c_in = 1/√(ς² + d²),

    so F has unit variance at every time of every path, also where points grow to many times the data's size
    (``path=variance_exploding``). Here the network is given d c_in x/β, and its output is d F =
    E[n s x1 − (β d²/s) ε | x_t]/√(n² s² + β² d²): both are in the data's units. Means are not subtracted.

    The network sees the time τ = β d/(β d + n s), at which a linear path has the same noise level, and the objective's
    law of times is one of τ: EDM's own choices of both (a quarter of log ς, and a log-normal law,
    ``weighting=edm``) have the same purpose.

    Args:
        data_deviation: d > 0, the standard deviation of the target's coordinates; None: measured from the target.
        noise_deviation: s > 0, that of the source's coordinates; None: measured from the source. On a bridge the noise
            is standard normal, so write 1.

    Raises:
        FlowportError: When a deviation is not positive, or is needed before it was measured.

    References:
        Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364,
            table 1.
    """

    def __init__(self, data_deviation: float | None = None, noise_deviation: float | None = None) -> None:
        for name, value in (("data_deviation", data_deviation), ("noise_deviation", noise_deviation)):
            if value is not None and not 0 < value < float("inf"):
                raise FlowportError(
                    f"prediction.{name}={value} must be a positive number, the standard deviation of the "
                    f"coordinates, or null, which measures it"
                )
        self.data_deviation, self.noise_deviation = data_deviation, noise_deviation

    def fitted(self, source: Distribution, target: Distribution, bridge: bool) -> "EDMPrediction":
        noise = self.noise_deviation or (1.0 if bridge else _deviation(source))
        return EDMPrediction(self.data_deviation or _deviation(target), noise)

    def _deviations(self) -> tuple[float, float]:
        if self.data_deviation is None or self.noise_deviation is None:
            raise FlowportError("prediction=edm needs data_deviation and noise_deviation where no data are at hand")
        return self.data_deviation, self.noise_deviation

    def input_scale(self, path: Path, t: Tensor) -> Tensor:
        d, s = self._deviations()
        square = (path.beta(t) * d).square() + (path.alpha(t) * s).square()
        return d * (square + path.gamma(t).square() if path.bridge else square).rsqrt()

    def network_time(self, path: Path, t: Tensor) -> Tensor:
        d, s = self._deviations()
        signal, noise = path.beta(t) * d, path.gamma(t) if path.bridge else path.alpha(t) * s
        return signal / (signal + noise)

    def times(self, path: Path, u: Tensor) -> tuple[Tensor, Tensor]:
        t = self.clamp(path, torch.linspace(0, 1, NODES, dtype=torch.float64, device=u.device))
        seen = self.network_time(path, t)
        wanted = seen[0] + (seen[-1] - seen[0]) * u.double()
        k = torch.searchsorted(seen, wanted).clamp(1, NODES - 1)
        slope = (t[k] - t[k - 1]) / (seen[k] - seen[k - 1]).clamp(min=torch.finfo(seen.dtype).tiny)
        found = self.clamp(path, t[k - 1] + slope * (wanted - seen[k - 1]))
        return found.to(u), (slope * (seen[-1] - seen[0])).to(u)

    def weights(self, n: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        d, s = self._deviations()
        size = ((n * s).square() + (beta * d).square()).sqrt()
        return n * s / size, -beta * d**2 / (s * size)


def _deviation(distribution: Distribution) -> float:
    found = distribution.deviation()
    if not found > 0:
        raise FlowportError("prediction=edm needs points that differ: all measured coordinates are equal")
    return found
