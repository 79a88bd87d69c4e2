"""Outputs that are the velocity itself."""

import torch
from torch import Tensor

from flowport.errors import Refusal
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import Hub, Prediction, endpoints


class Velocity(Prediction):
    """output = E[ẋ_t | x_t]: defined on every path, though on a bridge it says nothing of the noise."""

    resolves_blind_bridge = True

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        return path.clamp(t)

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.velocity

    def hub(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> Hub:
        if start is None:
            return Hub(x, output)
        return Hub(x, output, endpoints(Hub(x, output), coefficients, start)[2])

    def output(self, hub: Hub, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        return hub.velocity


class Bridge(Prediction):
    """Two heads, output = (E[ẋ_t | x_t], E[z | x_t]) along the first dimension: velocity and score of any bridge."""

    heads = 2
    resolves_blind_bridge = True
    needs_bridge = True

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        return path.clamp(t)

    def target(self, path: Path, sample: PathSample) -> Tensor:
        assert sample.z is not None, "prediction=bridge needs a path with noise"
        return torch.cat([sample.velocity, sample.z], 1)

    def hub(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> Hub:
        velocity, noise = output.chunk(2, 1)
        return Hub(x, velocity, noise)

    def output(self, hub: Hub, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        noise = endpoints(hub, coefficients, start)[2] if hub.noise is None else hub.noise
        if noise is None:
            raise Refusal("prediction=bridge needs a path with noise: use path=brownian_bridge or path=smooth_bridge")
        return torch.cat([hub.velocity, noise], 1)
