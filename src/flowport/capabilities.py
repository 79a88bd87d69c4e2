"""What can be derived from what: the one place that knows which compositions have a score, an SDE, a reward tilt.

| the path's noise                   | holds iff                                         | a score             |
|------------------------------------|---------------------------------------------------|---------------------|
| the source is the noise (γ = 0)    | source N(0, I), pairing and coupling independent  | −E[x0 | x]/α        |
| none (γ = 0)                       | anything else                                     | none                |
| bridge (γ > 0), blind to x0        | any source and coupling                           | −E[z | x]/γ, 2 heads |
| bridge (γ > 0), field sees x0      | any source and coupling                           | of p_t(· | x0)      |

Fields, translator and fine-tuners ask the role; a composition that breaks the table is refused when a run is built.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowport.conditioning import Conditioning
from flowport.coupling.base import Coupling
from flowport.data.pairing import Pairing
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, option
from flowport.path.base import Coefficients, Path
from flowport.prediction.base import FlowState, Prediction, endpoints


class NoiseRole(ABC):
    """Which variable of the path is Gaussian noise given the rest, and what follows from it.

    name: as the table calls it. tilt: what reward fine-tuning by adjoint matching reaches; empty where refused.
    """

    name: ClassVar[str]
    tilt: ClassVar[str] = ""

    @abstractmethod
    def scored(self, prediction: Prediction) -> bool:
        """Whether a field with this prediction has a score."""

    @abstractmethod
    def accept(self, prediction: Prediction) -> None:
        """Raise FlowportError for a prediction whose regression target or hub does not exist in this role."""

    def ode(self, path: Path) -> bool:
        """Whether the ODE carries the start law to the whole target law."""
        return True

    @abstractmethod
    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        """(n, ṅ), each (B,): the weight of the noise in x_t. Raises FlowportError where there is none."""

    @abstractmethod
    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        """E[noise | x_t = x], so that the score is −noise/n. Raises FlowportError where it is undefined."""

    @abstractmethod
    def require_tilt(self) -> None:
        """Raise FlowportError, naming what is possible instead, where adjoint matching has no guarantee."""


class SourceIsNoise(NoiseRole):
    """x_t = α ε + β x1 with ε ~ N(0, I) independent of x1."""

    name = "the source is the noise"
    tilt = "marginal tilt p1 e^r"

    def scored(self, prediction: Prediction) -> bool:
        return True

    def accept(self, prediction: Prediction) -> None:
        _refuse_bridge_head(prediction)

    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        return c.alpha, c.dalpha

    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        return endpoints(flow_state, c, start)[0]

    def require_tilt(self) -> None:
        return


class NoNoise(NoiseRole):
    """γ = 0 and the source is not independent standard Gaussian noise: velocities only."""

    name = "none"

    def scored(self, prediction: Prediction) -> bool:
        return False

    def accept(self, prediction: Prediction) -> None:
        _refuse_bridge_head(prediction)
        if prediction.is_score:
            raise FlowportError(
                "prediction=score needs a score, which a path without noise has only for an independent standard "
                "Gaussian source: use prediction=velocity, or a bridge path with conditioning=source"
            )

    def _refuse(self) -> FlowportError:
        return FlowportError(
            "this flow has no score: its path adds no noise and its source is not independent standard Gaussian noise; "
            "use an ODE solver with volatility=zero, or path=smooth_bridge with prediction=bridge, or a bridge with "
            "conditioning=source"
        )

    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        raise self._refuse()

    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        raise self._refuse()

    def require_tilt(self) -> None:
        raise FlowportError(
            "reward fine-tuning needs a score, which a path without noise has only for an independent standard "
            "Gaussian source: train the bridge variant of this experiment (a bridge path with conditioning=source)"
        )


class BlindBridge(NoiseRole):
    """γ > 0 and the field does not see x0."""

    name = "bridge, field blind to its start"

    def scored(self, prediction: Prediction) -> bool:
        return prediction.heads > 1

    def accept(self, prediction: Prediction) -> None:
        if not prediction.resolves_blind_bridge:
            raise FlowportError(
                f"{option('prediction', prediction)} is undefined on a bridge whose field does not see its "
                "start: use prediction=bridge or prediction=velocity, or conditioning=source"
            )

    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        assert c.gamma is not None and c.dgamma is not None
        return c.gamma, c.dgamma

    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        if flow_state.noise is None:
            raise FlowportError(
                "one velocity head on a bridge has no score: use prediction=bridge (a second head) or "
                "conditioning=source, or an ODE solver with volatility=zero"
            )
        return flow_state.noise

    def require_tilt(self) -> None:
        raise FlowportError(
            "adjoint matching on a bridge that does not see its start tilts the sampler's own kernel and not the "
            "training coupling: train the bridge with conditioning=source"
        )


class BridgeGivenSource(NoiseRole):
    """γ > 0 and the field is a function of x0: all of the Gaussian theory holds given x0."""

    name = "bridge, field conditioned on its start"
    tilt = "tilt per start p(x1 | x0) e^r(x1)"

    def scored(self, prediction: Prediction) -> bool:
        return True

    def accept(self, prediction: Prediction) -> None:
        if prediction.needs_unknown_source:
            raise FlowportError("prediction=source is pointless where the field sees its start: use prediction=target")

    def ode(self, path: Path) -> bool:
        # Without noise at t = 0 the start is one point, from which an ODE reaches one point: the mean.
        return bool(path.gamma(torch.zeros(1)) > 0)

    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        assert c.gamma is not None and c.dgamma is not None
        return c.gamma, c.dgamma

    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        noise = endpoints(flow_state, c, start)[2] if flow_state.noise is None else flow_state.noise
        assert noise is not None
        return noise

    def require_tilt(self) -> None:
        return


def _refuse_bridge_head(prediction: Prediction) -> None:
    if prediction.needs_bridge:
        raise FlowportError(
            "prediction=bridge needs a path with noise: use path=brownian_bridge or path=smooth_bridge, or "
            "prediction=velocity"
        )


@dataclass(frozen=True)
class Capabilities:
    """What a composition can do: ``role`` of the noise; ``score``: whether the field has one, hence SDE samplers."""

    role: NoiseRole
    score: bool

    def require_score(self, who: str) -> None:
        """Raise FlowportError, naming ``who`` asks, where the field has no score."""
        if not self.score:
            raise FlowportError(
                f"{who} needs a score, which this flow does not have (its path's noise: {self.role.name}): use an ODE "
                "solver with volatility=zero, prediction=bridge on a bridge path, or a bridge with conditioning=source"
            )


def capabilities_of(
    source: Distribution,
    pairing: Pairing,
    coupling: Coupling,
    path: Path,
    conditioning: Conditioning,
    prediction: Prediction,
) -> Capabilities:
    """The row of the table for a composition. Raises FlowportError where its parts contradict each other."""
    if coupling.needs_matched_classes and not pairing.matched_classes:
        raise FlowportError(
            "coupling=class_conditional needs equal class counts on both sides: write pairing=class_matched"
        )
    if pairing.paired and not coupling.independent:
        raise FlowportError(
            f"{type(coupling).__name__} over a set of pairs would destroy the pairs: use coupling=independent, "
            "which leaves them as they are, or pairing=unpaired"
        )
    independent = pairing.independent and coupling.independent
    role: NoiseRole
    if path.bridge:
        role = BridgeGivenSource() if conditioning.sees_source else BlindBridge()
    elif source.standard_gaussian and independent and not conditioning.sees_source:
        role = SourceIsNoise()
    else:
        role = NoNoise()
    role.accept(prediction)
    return Capabilities(role, role.scored(prediction))
