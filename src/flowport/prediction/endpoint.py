"""Predictions of an end point or of the score, from which the velocity follows by the path's coefficients.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
    Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
"""

from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import FlowState, Prediction, endpoints, velocity_of

BLIND = (
    "prediction={} is undefined on a bridge whose field does not see its start: use prediction=bridge or velocity, "
    "or conditioning=source"
)


class TargetPrediction(Prediction):
    """Target (denoiser) prediction, output = E[x1 | x_t].

    Defined on paths without noise, and on bridges whose field is conditioned on its start x0.
    """

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.x1

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        """Velocity v = α̇ x̂0 + β̇ x̂1 + γ̇ ẑ with x̂1 the output.

        Without noise x̂0 = (x − β x̂1)/α; on a bridge x̂0 = x0 and ẑ = (x − α x0 − β x̂1)/γ.

        Args:
            output: x̂1, (B, *D).
            x: Points, (B, *D).
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

        Raises:
            FlowportError: When the path is a bridge and ``start`` is None.
        """
        c = coefficients.over(x)
        if c.gamma is None:
            source = (x - c.beta * output) / c.alpha
            return FlowState(x, velocity_of(source, output, None, coefficients))
        if start is None:
            raise FlowportError(BLIND.format("target"))
        noise = (x - c.alpha * start - c.beta * output) / c.gamma
        return FlowState(x, velocity_of(start, output, noise, coefficients), noise)

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        return endpoints(flow_state, coefficients, start)[1]


class SourcePrediction(Prediction):
    """Source prediction, output = E[x0 | x_t]: the noise prediction of diffusion models for a Gaussian source.

    Only on paths without noise, where x̂1 = (x − α x̂0)/β.
    """

    needs_unknown_source = True

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.x0

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        """Velocity v = α̇ x̂0 + β̇ x̂1, with x̂0 the output and x̂1 = (x − α x̂0)/β.

        Args:
            output: x̂0, (B, *D).
            x: Points, (B, *D).
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: Not used: the prediction is undefined on bridges.

        Raises:
            FlowportError: When the path is a bridge.
        """
        c = coefficients.over(x)
        if c.gamma is not None:
            raise FlowportError(BLIND.format("source"))
        return FlowState(x, velocity_of(output, (x - c.alpha * output) / c.beta, None, coefficients))

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        return endpoints(flow_state, coefficients, start)[0]


class ScorePrediction(Prediction):
    """Score prediction, output = ∇ log p_t(x).

    It is −E[x0 | x_t = x]/α for a standard normal source independent of the target, and −E[z | x_t = x]/γ on a bridge
    conditioned on its start, where it is the score given x0.
    """

    is_score = True

    def target(self, path: Path, sample: PathSample) -> Tensor:
        c = path.coefficients(sample.t).over(sample.x)
        if c.gamma is None:
            return -sample.x0 / c.alpha
        assert sample.z is not None
        return -sample.z / c.gamma

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        """Velocity v = α̇ x̂0 + β̇ x̂1 + γ̇ ẑ with the score s the output.

        Without noise x̂0 = −α s; on a bridge x̂0 = x0 and ẑ = −γ s. In both cases x̂1 = (x − α x̂0 − γ ẑ)/β.

        Args:
            output: s, (B, *D).
            x: Points, (B, *D).
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

        Raises:
            FlowportError: When the path is a bridge and ``start`` is None.
        """
        c = coefficients.over(x)
        if c.gamma is None:
            source = -c.alpha * output
            return FlowState(x, velocity_of(source, (x - c.alpha * source) / c.beta, None, coefficients))
        if start is None:
            raise FlowportError(BLIND.format("score"))
        noise = -c.gamma * output
        target = (x - c.alpha * start - c.gamma * noise) / c.beta
        return FlowState(x, velocity_of(start, target, noise, coefficients), noise)

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        source, _, noise = endpoints(flow_state, coefficients, start)
        c = coefficients.over(flow_state.x)
        return -source / c.alpha if noise is None or c.gamma is None else -noise / c.gamma
