"""What a flow spends on its way: path energy, straightness, and the cost of the transport it ends with."""

from collections.abc import Callable

import torch
from scipy.integrate import simpson
from torch import Tensor

from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import rows
from flowport.metric.two_sample import gathered

Velocity = Callable[[Tensor, Tensor], Tensor]


def time_weights(times: Tensor) -> Tensor:
    """(K+1,) increasing times -> (K+1,) float64 weights w with Σ w_k f(t_k) ≈ ∫f dt: Simpson's rule for any spacing.

    Error O(h⁴) (trapezoid for K = 1). Raises FlowportError unless there are two times and they increase.
    """
    grid = times.detach().double().cpu()
    if len(grid) < 2 or not bool((grid.diff() > 0).all()):
        raise FlowportError(
            f"a path energy needs two or more increasing times, found {grid.tolist()[:4]}: keep the trajectory"
        )
    return torch.as_tensor(simpson(torch.eye(len(grid), dtype=grid.dtype).numpy(), x=grid.numpy()))


def path_energy(velocity: Velocity, times: Tensor, states: Tensor, drift: Tensor | None = None) -> Tensor:
    """∫|v(x_t, t) − drift|² dt along each trajectory -> (n,) float64.

    times: (K+1,) increasing; states: (K+1, n, *D); drift: (n, d), d = ∏D. The square is summed over
    coordinates. Unit: that of x, squared, per unit time.
    """
    n = states.shape[1]
    total = rows(states[0]).new_zeros(n)
    for weight, t, x in zip(time_weights(times).tolist(), times, states, strict=True):
        with torch.autocast(x.device.type, enabled=False):
            v = rows(velocity(x, t.to(x.device).expand(n)))
        total += weight * (v if drift is None else v - drift).square().sum(dim=1)
    return total


def straightness(velocity: Velocity, times: Tensor, states: Tensor) -> Tensor:
    """S = ∫|(X1 − X0)/T − v(X_t, t)|² dt along each trajectory -> (n,) float64.

    T is the time it spans, 1 for a whole one. For an exact trajectory S = path_energy − |X1 − X0|²/T;
    0 iff it is straight at constant speed.
    Source: Liu et al. 2023 (rectified flow), eq. 4.
    """
    drift = (rows(states[-1]) - rows(states[0])) / float(times[-1] - times[0])
    return path_energy(velocity, times, states, drift)


def transport_cost(source: Tensor, result: Tensor) -> Tensor:
    """|x0 − T(x0)|² of each pair, summed over coordinates -> (n,) float64. Raises FlowportError for different
    shapes."""
    if source.shape != result.shape:
        raise FlowportError(
            f"the transport cost compares points of one shape, found source {tuple(source.shape)} and result "
            f"{tuple(result.shape)}: leave metric TransportCost out"
        )
    return (rows(source) - rows(result)).square().sum(dim=1)


def field_of(outcome: EvaluationResult, name: str) -> Velocity:
    """The velocity of the evaluated field, or a FlowportError."""
    if outcome.velocity is None:
        raise FlowportError(
            f"{name} needs the velocity of a flow along its trajectory, which this evaluation has none of"
        )
    return outcome.velocity


class NormalisedPathEnergy(Metric):
    """``path_energy`` PE = E∫|v(x_t, t)|² dt, ``npe`` = |PE − W2²|/W2², ``path_energy_n``.

    W2² is ``outcome.reference_cost``, the least energy that any flow between the two laws can spend; npe is 0 for the
    dynamic optimal transport. About 100 kept times make the quadrature error negligible (:func:`time_weights`).
    Raises FlowportError without a velocity, a reference cost above zero, or two kept times.
    Source: Benamou & Brenier 2000; Tong et al. 2024, section 5.
    """

    needs_reference_cost = True
    energy: list[Tensor]
    reference: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("energy", default=[], dist_reduce_fx="cat")
        self.add_state("reference", default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        if outcome.reference_cost is None or not outcome.reference_cost > 0:
            raise FlowportError(
                f"the normalised path energy divides by W2² between source and target, which is "
                f"{outcome.reference_cost} here: use it where both have one shape and differ"
            )
        energy = path_energy(field_of(outcome, "the path energy"), outcome.times, outcome.states)
        self.energy.append(energy)
        self.reference.append(torch.full_like(energy, outcome.reference_cost))

    def compute(self) -> dict[str, Tensor]:
        energy, reference = gathered(self.energy), gathered(self.reference)
        if energy is None or reference is None:
            raise FlowportError("the path energy has seen no trajectory")
        least = reference.mean()
        spent = energy.mean()
        return {
            "path_energy": spent,
            "npe": (spent - least).abs() / least,
            "path_energy_n": torch.tensor(len(energy)),
        }


class Straightness(Metric):
    """``straightness`` E∫|(X1 − X0) − v(X_t, t)|² dt, see :func:`straightness`, and ``straightness_n``.

    ``straightness_relative``: over E|X1 − X0|², so that it does not grow with the number of coordinates.
    """

    bend: list[Tensor]
    moved: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("bend", default=[], dist_reduce_fx="cat")
        self.add_state("moved", default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        self.bend.append(straightness(field_of(outcome, "straightness"), outcome.times, outcome.states))
        self.moved.append(transport_cost(outcome.states[0], outcome.states[-1]))

    def compute(self) -> dict[str, Tensor]:
        bend, moved = gathered(self.bend), gathered(self.moved)
        if bend is None or moved is None:
            raise FlowportError("straightness has seen no trajectory")
        return {
            "straightness": bend.mean(),
            "straightness_relative": bend.mean() / moved.mean(),
            "straightness_n": torch.tensor(len(bend)),
        }


class TransportCost(Metric):
    """``transport_cost`` E|x0 − T(x0)|² over pairs, ``transport_cost_per_dimension``, ``transport_cost_n``.

    The square is summed over coordinates. How far a translation moves its source, in encoded units (pixels as the
    network sees them). It is at least W2².
    """

    cost: list[Tensor]
    mean_cost: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("cost", default=[], dist_reduce_fx="cat")
        self.add_state("mean_cost", default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        cost = transport_cost(outcome.source.x, outcome.result)
        self.cost.append(cost)
        self.mean_cost.append(cost / outcome.result[0].numel())

    def compute(self) -> dict[str, Tensor]:
        cost, mean_cost = gathered(self.cost), gathered(self.mean_cost)
        if cost is None or mean_cost is None:
            raise FlowportError("the transport cost has seen no translation")
        return {
            "transport_cost": cost.mean(),
            "transport_cost_per_dimension": mean_cost.mean(),
            "transport_cost_n": torch.tensor(len(cost)),
        }
