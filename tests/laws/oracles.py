"""Every permitted composition with its exact field, and the same conditional means by brute-force conditioning."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from flowport.capabilities import (
    Capabilities,
    ConditionedBridge,
    NoiseRole,
    NoNoise,
    SourceIsNoise,
    UnconditionedBridge,
)
from flowport.conditioning import SourceConditioning, Unconditional
from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.field.analytic import JointMixture
from flowport.path import Path
from flowport.prediction import Prediction, VelocityPrediction
from flowport.types import Condition
from tests.zoo import PATHS, PREDICTIONS

F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def _joint(law: list[tuple[float, list[float], list[list[float]]]]) -> JointMixture:
    """Components (weight, mean, covariance) of the stacked (x0, x1) as a joint mixture."""
    w, m, s = (torch.tensor([row[k] for row in law], dtype=F64) for k in range(3))
    d = m.shape[1] // 2
    return JointMixture((w / w.sum()).log(), m[:, :d], m[:, d:], s[:, :d, :d], s[:, d:, d:], s[:, :d, d:])


A = [[1.0, 0.3, 0.5, 0.1], [0.3, 0.8, -0.2, 0.3], [0.5, -0.2, 0.9, 0.2], [0.1, 0.3, 0.2, 0.6]]
B = [[0.5, -0.1, 0.1, 0.0], [-0.1, 0.7, 0.2, -0.3], [0.1, 0.2, 0.4, 0.1], [0.0, -0.3, 0.1, 0.9]]
NOISE_A = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.5, 0.2], [0, 0, 0.2, 0.3]]
NOISE_B = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.2, -0.1], [0, 0, -0.1, 0.4]]

# (x0, x1) in R² × R²: coupled ends, and a standard Gaussian source that is independent of its target.
COUPLED = {
    "gaussian": _joint([(1, [0.5, -1, 2, 1], A)]),
    "mixture": _joint([(1, [0.5, -1, 2, 1], A), (2, [-1, 0.5, -1, 0.3], B)]),
}
FROM_NOISE = {
    "gaussian": _joint([(1, [0, 0, 2, 1], NOISE_A)]),
    "mixture": _joint([(1, [0, 0, 2, 1], NOISE_A), (2, [0, 0, -1, 0.3], NOISE_B)]),
}


def line(law: list[tuple[float, float, float, float, float, float]]) -> JointMixture:
    """Components (weight, m0, m1, s0, s1, c) of one-dimensional ends, variances s0, s1 and covariance c."""
    return _joint([(w, [m0, m1], [[s0, c], [c, s1]]) for w, m0, m1, s0, s1, c in law])


@dataclass(frozen=True)
class Composition:
    """A path, a noise role and a prediction that the table of capabilities permits together."""

    path: Path
    role: NoiseRole
    prediction: Prediction

    @property
    def sees_source(self) -> bool:
        return isinstance(self.role, ConditionedBridge)

    def joint(self, kind: str) -> JointMixture:
        return (FROM_NOISE if isinstance(self.role, SourceIsNoise) else COUPLED)[kind]

    def field(self, joint: JointMixture) -> AnalyticField:
        capabilities = Capabilities(self.role, self.role.scored(self.prediction))
        return AnalyticField(
            joint,
            self.path,
            self.prediction,
            SourceConditioning() if self.sees_source else Unconditional(),
            capabilities,
        )

    def condition(self, x0: Tensor) -> Condition:
        return Condition(source=x0 if self.sees_source else None)


def _permitted() -> list[tuple[str, Composition]]:
    found = []
    for path_name, make in PATHS:
        roles = (UnconditionedBridge(), ConditionedBridge()) if make().bridge else (SourceIsNoise(), NoNoise())
        for role in roles:
            for name, prediction in PREDICTIONS:
                try:
                    role.accept(prediction())
                except FlowportError:
                    continue
                found.append((f"{path_name}-{type(role).__name__}-{name}", Composition(make(), role, prediction())))
    return found


COMPOSITIONS = _permitted()
SCORED = [(name, c) for name, c in COMPOSITIONS if c.role.scored(c.prediction)]
VELOCITIES = [(name, c) for name, c in COMPOSITIONS if isinstance(c.prediction, VelocityPrediction)]


def compositions(chosen: list[tuple[str, Composition]] = COMPOSITIONS) -> dict:
    return {"argvalues": [c for _, c in chosen], "ids": [name for name, _ in chosen]}


def points(n: int, d: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Arbitrary x (n, d) and x0 (n, d)."""
    generator = torch.Generator().manual_seed(seed)
    both = 1.5 * torch.randn(2, n, d, dtype=F64, generator=generator)
    return both[0], both[1]


def _stacked(joint: JointMixture, path: Path, t: float, sees_source: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means (K, 3d) and covariances (K, 3d, 3d) of w = (x0, x1, z); the map from w to what is seen, x_t or (x_t, x0),
    and to ẋ_t."""
    d, k, eye = joint.m0.shape[1], len(joint.m0), torch.eye(joint.m0.shape[1], dtype=F64)
    mean = torch.cat([joint.m0, joint.m1, torch.zeros_like(joint.m0)], 1)
    covariance = torch.zeros(k, 3 * d, 3 * d, dtype=F64)
    covariance[:, :d, :d], covariance[:, d : 2 * d, d : 2 * d] = joint.s0, joint.s1
    covariance[:, :d, d : 2 * d], covariance[:, d : 2 * d, :d] = joint.cross, joint.cross.mT
    covariance[:, 2 * d :, 2 * d :] = eye
    c = path.coefficients(tensor(t))
    zero = torch.zeros(1, dtype=F64)
    g, dg = (zero, zero) if c.gamma is None else (c.gamma, c.dgamma)
    seen = torch.cat([c.alpha * eye, c.beta * eye, g * eye], 1)
    if sees_source:
        seen = torch.cat([seen, torch.cat([eye, 0 * eye, 0 * eye], 1)])
    return mean, covariance, seen, torch.cat([c.dalpha * eye, c.dbeta * eye, dg * eye], 1)


def truth(joint: JointMixture, path: Path, t: float, x: Tensor, x0: Tensor | None) -> dict[str, Tensor]:
    """E[x0 | seen], E[x1 | seen], E[z | seen], E[ẋ | seen] and ∇ₓ log p(seen), seen = x_t or (x_t, x0), each (B, d):
    conditioning of the stacked Gaussians (x0, x1, z), and autograd of torch's own density."""
    d = x.shape[1]
    mean, covariance, seen, moving = _stacked(joint, path, t, x0 is not None)
    y = (x if x0 is None else torch.cat([x, x0], 1)).clone().requires_grad_()
    centre, spread = mean @ seen.T, seen @ covariance @ seen.T
    law = MultivariateNormal(centre, spread)
    share = torch.softmax(joint.log_weights + law.log_prob(y[:, None]), 1).detach()
    total = MixtureSameFamily(Categorical(logits=joint.log_weights), law).log_prob(y).sum()
    (slope,) = torch.autograd.grad(total, y)
    gain = covariance @ seen.T @ torch.linalg.inv(spread)
    w = mean + torch.einsum("kij,bkj->bki", gain, y.detach()[:, None] - centre)
    w = (share[..., None] * w).sum(1)
    return {"x0": w[:, :d], "x1": w[:, d : 2 * d], "z": w[:, 2 * d :], "velocity": w @ moving.T, "score": slope[:, :d]}


def moments(joint: JointMixture, path: Path, t: float) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of x_t for one Gaussian component."""
    mean, covariance, seen, _ = _stacked(joint, path, t, False)
    return (mean @ seen.T)[0], (seen @ covariance @ seen.T)[0]
