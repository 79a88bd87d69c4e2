"""Costs of transport by a flow: path energy, straightness, and the squared displacement of every point.

References:
    Benamou and Brenier 2000, "A computational fluid mechanics solution to the Monge-Kantorovich mass transfer problem",
        doi:10.1007/s002110050002.
    Liu et al. 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
        arXiv:2209.03003 (straightness).
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482 (normalised path energy).
"""

from collections.abc import Callable

import torch
from scipy.integrate import simpson
from torch import Tensor

from flowport.errors import FlowportError, SampleSize
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import rows
from flowport.metric.two_sample import gathered
from flowport.metric.wasserstein import wasserstein_2

Velocity = Callable[[Tensor, Tensor], Tensor]


def time_weights(times: Tensor) -> Tensor:
    """Quadrature weights w with Σ_k w_k f(t_k) ≈ ∫ f dt by Simpson's rule for any spacing, (K+1,) float64.

    The error is O(h⁴); for K = 1 the rule is the trapezoid.

    Args:
        times: Increasing times, (K+1,).

    Raises:
        FlowportError: For fewer than two times, or times that do not increase.
    """
    grid = times.detach().double().cpu()
    if len(grid) < 2 or not bool((grid.diff() > 0).all()):
        raise FlowportError(
            f"a path energy needs two or more increasing times, found {grid.tolist()[:4]}: keep the trajectory"
        )
    return torch.as_tensor(simpson(torch.eye(len(grid), dtype=grid.dtype).numpy(), x=grid.numpy()))


def path_energy(velocity: Velocity, times: Tensor, states: Tensor, drift: Tensor | None = None) -> Tensor:
    """Path energy ∫ |v(x_t, t) − drift|² dt of each trajectory, (n,) float64, in squared units of x per unit of time.

    The square is summed over the coordinates.

    Args:
        velocity: (x, t) -> velocity, (n, *D).
        times: Increasing times, (K+1,).
        states: Trajectories, (K+1, n, *D).
        drift: Constant velocity to subtract, (n, d) with d = ∏D; None for 0.
    """
    n = states.shape[1]
    total = rows(states[0]).new_zeros(n)
    for weight, t, x in zip(time_weights(times).tolist(), times, states, strict=True):
        with torch.autocast(x.device.type, enabled=False):
            v = rows(velocity(x, t.to(x.device).expand(n)))
        total += weight * (v if drift is None else v - drift).square().sum(dim=1)
    return total


def straightness(velocity: Velocity, times: Tensor, states: Tensor) -> Tensor:
    """Straightness S = ∫ |(X1 − X0)/T − v(X_t, t)|² dt of each trajectory, (n,) float64.

    T is the length of time that the trajectory covers, 1 for a whole one. S = 0 iff the trajectory is straight with
    constant speed; for an exact trajectory S = path energy − |X1 − X0|²/T.

    Args:
        velocity: (x, t) -> velocity, (n, *D).
        times: Increasing times, (K+1,).
        states: Trajectories, (K+1, n, *D).

    References:
        Liu et al. 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
            arXiv:2209.03003.
    """
    drift = (rows(states[-1]) - rows(states[0])) / float(times[-1] - times[0])
    return path_energy(velocity, times, states, drift)


def transport_cost(source: Tensor, result: Tensor) -> Tensor:
    """Squared displacement |x0 − T(x0)|² of each pair, summed over the coordinates, (n,) float64.

    Args:
        source: Source points x0, (n, *D).
        result: Their translations T(x0), (n, *D).

    Raises:
        FlowportError: When the shapes differ.
    """
    if source.shape != result.shape:
        raise FlowportError(
            f"the transport cost compares points of one shape, found source {tuple(source.shape)} and result "
            f"{tuple(result.shape)}: leave metric TransportCost out"
        )
    return (rows(source) - rows(result)).square().sum(dim=1)


def field_of(outcome: EvaluationResult, name: str) -> Velocity:
    """The velocity of the evaluated field.

    Args:
        outcome: The evaluation.
        name: Name of the metric in the message.

    Raises:
        FlowportError: When the evaluation has no velocity.
    """
    if outcome.velocity is None:
        raise FlowportError(
            f"{name} needs the velocity of a flow along its trajectory, which this evaluation has none of"
        )
    return outcome.velocity


class NormalisedPathEnergy(Metric):
    """Path energy PE = E∫|v(x_t, t)|² dt and its relative excess over optimal transport, NPE = |PE − W2²|/W2².

    Values: ``path_energy`` = PE, ``npe`` = NPE, ``path_energy_n``. W2² is ``outcome.reference_cost``, the least energy
    of a flow between the two laws (Benamou and Brenier 2000), so NPE is 0 for dynamic optimal transport. With about 100
    recorded times the error of the quadrature is negligible (:func:`time_weights`).
    """

    needs_reference_cost = True
    energy: list[Tensor]
    reference: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("energy", default=[], dist_reduce_fx="cat")
        self.add_state("reference", default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        """Add the path energies of a batch.

        Args:
            outcome: An evaluation with a trajectory, a velocity and a reference cost.

        Raises:
            FlowportError: Without a velocity, a reference cost above 0 or two recorded times.
        """
        if outcome.reference_cost is None or not outcome.reference_cost > 0:
            raise FlowportError(
                f"the normalised path energy divides by W2² between source and target, which is "
                f"{outcome.reference_cost} here: use it where both have one shape and differ"
            )
        energy = path_energy(field_of(outcome, "the path energy"), outcome.times, outcome.states)
        self.energy.append(energy)
        self.reference.append(torch.full_like(energy, outcome.reference_cost))

    def compute(self) -> dict[str, Tensor]:
        """Path energy, normalised path energy and number of trajectories, by name.

        Raises:
            FlowportError: Before the first update.
        """
        energy, reference = gathered(self.energy), gathered(self.reference)
        if energy is None or reference is None:
            raise FlowportError("the path energy has seen no trajectory")
        least = reference.mean()
        mean = energy.mean()
        return {
            "path_energy": mean,
            "npe": (mean - least).abs() / least,
            "path_energy_n": torch.tensor(len(energy)),
        }


class Straightness(Metric):
    """Mean straightness E∫|(X1 − X0)/T − v(X_t, t)|² dt of the trajectories, see :func:`straightness`.

    Values: ``straightness``; ``straightness_relative``, its ratio to E|X1 − X0|², which does not grow with the number
    of coordinates; ``straightness_n``.
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
        """Straightness, relative straightness and number of trajectories, by name.

        Raises:
            FlowportError: Before the first update.
        """
        bend, moved = gathered(self.bend), gathered(self.moved)
        if bend is None or moved is None:
            raise FlowportError("straightness has seen no trajectory")
        return {
            "straightness": bend.mean(),
            "straightness_relative": bend.mean() / moved.mean(),
            "straightness_n": torch.tensor(len(bend)),
        }


class TransportCost(Metric):
    """Mean squared displacement E|x0 − T(x0)|² of source points by the translation T, and the least one.

    Values: ``transport_cost``, summed over the coordinates, in squared units of the points; ``_per_dimension``; ``_n``;
    and ``_least``, W2² between the same source points and the same translations: the cost of the cheapest pairing of
    these points, which the translation reaches iff it is optimal for them.

    Args:
        points: Largest number of points of ``_least``; of more, as many are taken at even spacing.
    """

    cost: list[Tensor]
    mean_cost: list[Tensor]
    start: list[Tensor]
    end: list[Tensor]

    def __init__(self, points: SampleSize = 1024) -> None:
        super().__init__()
        self.points = points
        for state in ("cost", "mean_cost", "start", "end"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        cost = transport_cost(outcome.source.x, outcome.result)
        self.cost.append(cost)
        self.mean_cost.append(cost / outcome.result[0].numel())
        self.start.append(outcome.source.x.detach())
        self.end.append(outcome.result.detach())

    def compute(self) -> dict[str, Tensor]:
        """Transport cost, the least one, transport cost per coordinate and number of translations, by name.

        Raises:
            FlowportError: Before the first update.
        """
        cost, mean_cost = gathered(self.cost), gathered(self.mean_cost)
        start, end = gathered(self.start), gathered(self.end)
        if cost is None or mean_cost is None or start is None or end is None:
            raise FlowportError("the transport cost has seen no translation")
        n = min(len(cost), self.points)
        some = torch.arange(n, device=cost.device) * len(cost) // n
        return {
            "transport_cost": cost.mean(),
            "transport_cost_least": wasserstein_2(start[some], end[some]).square().to(cost.device),
            "transport_cost_per_dimension": mean_cost.mean(),
            "transport_cost_n": torch.tensor(len(cost)),
        }
