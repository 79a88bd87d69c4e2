"""Predictions of the velocity.

References:
    Lipman et al. 2022, "Flow Matching for Generative Modeling", arXiv:2210.02747.
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
    Tong et al. 2023, "Simulation-free Schrödinger bridges via score and flow matching", arXiv:2307.03672.
"""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import FlowState, Prediction, endpoints


class VelocityPrediction(Prediction):
    """Velocity prediction, output = E[ẋ_t | x_t], the marginal velocity of flow matching.

    Defined on every path. On a bridge it determines the noise only where the field is conditioned on its start.
    """

    defined_without_source = True

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
    """Velocity and noise prediction for bridges, output = (E[ẋ_t | x_t], E[z | x_t]).

    The two heads are concatenated along the first dimension of the event. They give velocity and score −ẑ/γ of any
    bridge.
    """

    heads = 2
    defined_without_source = True
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
        """Velocity and noise estimate, concatenated along the first dimension of the event, (B, 2C, …).

        Args:
            flow_state: Points, velocity and possibly the noise estimate, (B, *D) each.
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

        Raises:
            FlowportError: When the path has no noise, or the flow state does not determine it.
        """
        noise = endpoints(flow_state, coefficients, start)[2] if flow_state.noise is None else flow_state.noise
        if noise is None:
            raise FlowportError(
                "prediction=bridge needs a path with noise: use path=brownian_bridge or path=smooth_bridge"
            )
        return torch.cat([flow_state.velocity, noise], 1)
