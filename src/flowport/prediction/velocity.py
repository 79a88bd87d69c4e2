"""Outputs that are the velocity itself."""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import FlowState, Prediction, endpoints


class VelocityPrediction(Prediction):
    """output = E[ẋ_t | x_t]: defined on every path, though on a bridge it says nothing of the noise."""

    resolves_blind_bridge = True

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        return path.clamp(t)

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.velocity

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        if start is None:
            return FlowState(x, output)
        return FlowState(x, output, endpoints(FlowState(x, output), coefficients, start)[2])

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        return flow_state.velocity


class BridgePrediction(Prediction):
    """Two heads, output = (E[ẋ_t | x_t], E[z | x_t]) along the first dimension: velocity and score of any bridge."""

    heads = 2
    resolves_blind_bridge = True
    needs_bridge = True

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        return path.clamp(t)

    def target(self, path: Path, sample: PathSample) -> Tensor:
        assert sample.z is not None, "prediction=bridge needs a path with noise"
        return torch.cat([sample.velocity, sample.z], 1)

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        velocity, noise = output.chunk(2, 1)
        return FlowState(x, velocity, noise)

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        noise = endpoints(flow_state, coefficients, start)[2] if flow_state.noise is None else flow_state.noise
        if noise is None:
            raise FlowportError(
                "prediction=bridge needs a path with noise: use path=brownian_bridge or path=smooth_bridge"
            )
        return torch.cat([flow_state.velocity, noise], 1)
