"""Capabilities of a composition of source, coupling, path, conditioning and prediction: score, SDE, reward tilt.

On the path x_t = α x0 + β x1 + γ z with z ~ N(0, I), the score follows from the variable that is Gaussian noise
independent of the rest (Stein's identity, Tweedie's formula):

| role of the noise           | condition                                        | score                              |
|-----------------------------|--------------------------------------------------|------------------------------------|
| x0 (γ = 0)                  | source N(0, I), pairing and coupling independent | −E[x0 | x]/α                       |
| none (γ = 0)                | any other source or coupling                     | none                               |
| z (γ > 0), v a field of x   | any source and coupling                          | −E[z | x]/γ, by a second head      |
| z (γ > 0), v given x0 too   | any source and coupling                          | of p_t(· | x0): −E[z | x, x0]/γ    |

Under ``conditioning=target_label`` a field that does not see x0 starts every label from p0, so x0 must be independent
of the label: the coupling is independent, or declares ``label_aware``.

Fields, samplers and fine-tuning methods query the role. A composition outside the table raises an error when a run is
built.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
    Domingo-Enrich et al. 2024, "Adjoint Matching: Fine-tuning Flow and Diffusion Generative Models with Memoryless
        Stochastic Optimal Control", arXiv:2409.08861.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowport.conditioning import Conditioning, TargetLabelConditioning
from flowport.coupling.base import Coupling
from flowport.data.pairing import Pairing
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, option
from flowport.path.base import Coefficients, Path
from flowport.prediction.base import FlowState, Prediction, endpoints


class NoiseRole(ABC):
    """The role of Gaussian noise in a path: which variable is N(0, I) given the rest, and the score that follows.

    A member provides all methods below. Where a field has a score, it is −E[noise | x_t = x]/n, with the weight n of
    the noise from ``amplitude``.

    To add a member: subclass this class in this module, let ``capabilities_of`` return it and add its compositions to
    ``ROWS`` of tests/laws/test_capability.py.

    Attributes:
        name: Name of the role in messages.
        tilt: The law that reward fine-tuning by adjoint matching converges to; empty where there is no guarantee.
    """

    name: ClassVar[str]
    tilt: ClassVar[str] = ""

    @abstractmethod
    def scored(self, prediction: Prediction) -> bool:
        """Whether a field with a prediction has a score.

        Args:
            prediction: What the network predicts.
        """

    @abstractmethod
    def accept(self, prediction: Prediction) -> None:
        """Checks that the regression target and the flow state of a prediction are defined in this role.

        Args:
            prediction: What the network predicts.

        Raises:
            FlowportError: When they are undefined.
        """

    def ode(self, path: Path) -> bool:
        """Whether the probability flow ODE transports the source law to the whole target law.

        Args:
            path: The path of the flow.
        """
        return True

    @abstractmethod
    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        """The weight n of the noise in x_t and its time derivative ṅ, (B,) each.

        Args:
            c: Coefficients of the path at times (B,).

        Raises:
            FlowportError: When the path has no noise.
        """

    @abstractmethod
    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        """The conditional mean of the noise, E[noise | x_t = x], (B, *D); the score is −E[noise | x_t = x]/n.

        Args:
            flow_state: Velocity and noise estimates at points x, (B, *D).
            c: Coefficients of the path at times (B,).
            start: Start x0, (B, *D), where the field is conditioned on it; else None.

        Raises:
            FlowportError: When it is undefined or not estimated.
        """

    @abstractmethod
    def require_tilt(self) -> None:
        """Checks that adjoint matching converges to a known tilt of the target law.

        Raises:
            FlowportError: When it has no such guarantee; the message names what is possible instead.
        """


class SourceIsNoise(NoiseRole):
    """Source as noise: x_t = α ε + β x1 with ε ~ N(0, I) independent of x1, so the score is −E[ε | x_t = x]/α."""

    name = "the source is the noise"
    tilt = "marginal tilt p1 e^{λr}"

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
    """No noise: γ = 0 and a source that is not N(0, I) independent of x1, so there is a velocity but no score."""

    name = "none"

    def scored(self, prediction: Prediction) -> bool:
        return False

    def accept(self, prediction: Prediction) -> None:
        """Checks that the prediction is neither a score nor the second head of a bridge.

        Args:
            prediction: What the network predicts.

        Raises:
            FlowportError: When it is one of these.
        """
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
        """Refuses reward fine-tuning, which needs a score.

        Raises:
            FlowportError: Always.
        """
        raise FlowportError(
            "reward fine-tuning needs a score, which a path without noise has only for an independent standard "
            "Gaussian source: train the bridge variant of this experiment (a bridge path with conditioning=source)"
        )


class UnconditionedBridge(NoiseRole):
    """Bridge with a field not given x0: γ > 0, and the score is −E[z | x_t = x]/γ, which needs a second head."""

    name = "bridge, field blind to its start"

    def scored(self, prediction: Prediction) -> bool:
        return prediction.heads > 1

    def accept(self, prediction: Prediction) -> None:
        """Checks that the velocity follows from the prediction without x0.

        Args:
            prediction: What the network predicts.

        Raises:
            FlowportError: When it does not.
        """
        if not prediction.defined_without_source:
            raise FlowportError(
                f"{option('prediction', prediction)} is undefined on a bridge whose field does not see its "
                "start: use prediction=bridge or prediction=velocity, or conditioning=source"
            )

    def amplitude(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        assert c.gamma is not None and c.dgamma is not None
        return c.gamma, c.dgamma

    def noise(self, flow_state: FlowState, c: Coefficients, start: Tensor | None) -> Tensor:
        """The estimate of E[z | x_t = x] by the second head, (B, *D).

        Args:
            flow_state: Velocity and noise estimates at points x, (B, *D).
            c: Coefficients of the path at times (B,); not used.
            start: Start x0; not used.

        Raises:
            FlowportError: When the prediction has no second head.
        """
        if flow_state.noise is None:
            raise FlowportError(
                "one velocity head on a bridge has no score: use prediction=bridge (a second head) or "
                "conditioning=source, or an ODE solver with volatility=zero"
            )
        return flow_state.noise

    def require_tilt(self) -> None:
        """Refuses adjoint matching, which would tilt the law of the sampler and not the training coupling.

        Raises:
            FlowportError: Always.
        """
        raise FlowportError(
            "adjoint matching on a bridge that does not see its start tilts the sampler's own kernel and not the "
            "training coupling: train the bridge with conditioning=source"
        )


class ConditionedBridge(NoiseRole):
    """Bridge with a field given x0: γ > 0, and the score of p_t(· | x0) is −E[z | x_t = x, x0]/γ."""

    name = "bridge, field conditioned on its start"
    tilt = "tilt per start p(x1 | x0) e^r(x1)"

    def scored(self, prediction: Prediction) -> bool:
        return True

    def accept(self, prediction: Prediction) -> None:
        """Checks that the prediction is not the source, which the field is given.

        Args:
            prediction: What the network predicts.

        Raises:
            FlowportError: When it is the source.
        """
        if prediction.needs_unknown_source:
            raise FlowportError("prediction=source is pointless where the field sees its start: use prediction=target")

    def ode(self, path: Path) -> bool:
        # Where γ(0) = 0 the law at t = 0 given x0 is one point, which an ODE transports to one point only.
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
    """The capabilities of a composition, on which samplers and fine-tuning methods depend.

    Args:
        role: Role of Gaussian noise in the path.
        score: Whether the field has a score, hence whether it can be sampled by SDEs.
    """

    role: NoiseRole
    score: bool

    def require_score(self, purpose: str) -> None:
        """Checks that the field has a score.

        Args:
            purpose: Name of the caller in the message, for instance ``"guidance"``.

        Raises:
            FlowportError: When the field has no score.
        """
        if not self.score:
            raise FlowportError(
                f"{purpose} needs a score, which this flow does not have (its path's noise: {self.role.name}): use an "
                "ODE solver with volatility=zero, prediction=bridge on a bridge path, or a bridge with "
                "conditioning=source"
            )


def capabilities_of(
    source: Distribution,
    pairing: Pairing,
    coupling: Coupling,
    path: Path,
    conditioning: Conditioning,
    prediction: Prediction,
) -> Capabilities:
    """The capabilities of a composition, by the table of this module.

    Args:
        source: Source distribution.
        pairing: Joint law of source and target before the coupling.
        coupling: Coupling that re-pairs the points of a batch.
        path: Path from x0 to x1.
        conditioning: Inputs of the network besides x and t.
        prediction: What the network predicts.

    Raises:
        FlowportError: When the parts contradict each other, or the prediction is undefined on the path.
    """
    if coupling.needs_matched_classes and not pairing.matched_classes:
        raise FlowportError(
            "coupling=class_conditional needs equal class counts on both sides: write pairing=class_matched"
        )
    if pairing.paired and not coupling.independent:
        raise FlowportError(
            f"{type(coupling).__name__} over a set of pairs would destroy the pairs: use coupling=independent, "
            "which leaves them as they are, or pairing=unpaired"
        )
    labelled = isinstance(conditioning, TargetLabelConditioning) and not conditioning.sees_source
    if labelled and not (coupling.independent or coupling.label_aware):
        others = ["independent", "condition_aware", *(["class_conditional"] if pairing.matched_classes else [])]
        raise FlowportError(
            f"{option('coupling', coupling)} makes the start depend on the target's label, but "
            "conditioning=target_label starts every label from the same source: use coupling="
            f"{', '.join(others[:-1])} or {others[-1]}"
        )
    independent = pairing.independent and coupling.independent
    role: NoiseRole
    if path.bridge:
        role = ConditionedBridge() if conditioning.sees_source else UnconditionedBridge()
    elif source.standard_gaussian and independent and not conditioning.sees_source:
        role = SourceIsNoise()
    else:
        role = NoNoise()
    role.accept(prediction)
    return Capabilities(role, role.scored(prediction))
