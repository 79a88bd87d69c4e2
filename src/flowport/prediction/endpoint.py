"""Outputs that are an end point, or the score; the velocity follows from the path's coefficients."""

from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.prediction.base import FlowState, Prediction, endpoints, velocity_of

BLIND = (
    "prediction={} is undefined on a bridge whose field does not see its start: use prediction=bridge or velocity, "
    "or conditioning=source"
)


class TargetPrediction(Prediction):
    """output = E[x1 | x_t] (the denoiser).

    Without noise x̂0 = (x − β x̂1)/α; on a bridge that sees its start ẑ = (x − α x0 − β x̂1)/γ.
    """

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.x1

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
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
    """output = E[x0 | x_t] (the noise, where the source is noise): x̂1 = (x − α x̂0)/β. Only without bridge noise."""

    needs_unknown_source = True

    def target(self, path: Path, sample: PathSample) -> Tensor:
        return sample.x0

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        c = coefficients.over(x)
        if c.gamma is not None:
            raise FlowportError(BLIND.format("source"))
        return FlowState(x, velocity_of(output, (x - c.alpha * output) / c.beta, None, coefficients))

    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        return endpoints(flow_state, coefficients, start)[0]


class ScorePrediction(Prediction):
    """output = ∇ log p_t: −E[x0 | x]/α where the source is the noise, −E[z | x]/γ on a bridge that sees its start."""

    is_score = True

    def target(self, path: Path, sample: PathSample) -> Tensor:
        c = path.coefficients(sample.t).over(sample.x)
        if c.gamma is None:
            return -sample.x0 / c.alpha
        assert sample.z is not None
        return -sample.z / c.gamma

    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
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
