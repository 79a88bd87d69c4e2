"""Flow matching."""

from functools import lru_cache

import torch
from torch import nn
from torch.nn.functional import mse_loss

from flowport.field.base import Field
from flowport.objective.base import Loss, Objective
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import Weighting
from flowport.path.base import Path
from flowport.prediction.base import Prediction
from flowport.tensors import over
from flowport.types import Pair


@lru_cache(maxsize=64)
def times_of(prediction: Prediction, path: Path) -> tuple[float, float]:
    """The first and the last time at which the prediction is read on the path."""
    low, high = prediction.clamp(path, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return low, high


class FlowMatching(Objective, nn.Module):
    """E_{t, (x0, x1), z} w(t) |field(x_t, t, condition) − y|² / D,   x_t = α x0 + β x1 + γ z,   D numbers in a point.

    y is what the field's prediction asks for: the pair's own velocity ẋ_t = α̇ x0 + β̇ x1 + γ̇ z (flow matching, Lipman et
    al. 2022, Albergo & Vanden-Eijnden 2022, Liu et al. 2022), the target x1, the source x0, the pair's score, or
    velocity and noise by two heads of equal weight. The minimiser is E[y | x_t, condition], for any source, target and
    coupling. The sampler's [0, 1] is mapped linearly onto the times at which the prediction is finite
    (``prediction.clamp``): on all of [0, 1] the loss of a score would be infinite. Where a pair has a mask, the mean
    is over what both ends hold (``Pair.mask``): padding neither adds to the loss nor gives a gradient. A module, so
    that a time sampler that learns (in training only) is kept in checkpoints.
    """

    def __init__(self, time_sampler: TimeSampler, weighting: Weighting) -> None:
        super().__init__()
        self.time_sampler, self.weighting = time_sampler, weighting

    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        x0, path = pair.source.x, field.path
        low, high = times_of(field.prediction, path)
        drawn = self.time_sampler(len(x0), generator)
        t = drawn.to(x0.dtype)
        if (low, high) != (0, 1):
            t = low + (high - low) * t
        z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype) if path.bridge else None
        sample = path.sample(pair, t, z)
        condition = field.conditioning.training(pair, generator)
        output, wanted = field.output(sample.x, t, condition), field.prediction.target(path, sample)
        error = mse_loss(output.float(), wanted.float(), reduction="none")
        weight = self.weighting(t, field, self.time_sampler.density(drawn) / (high - low))
        terms = error if weight is None else over(weight.float(), error) * error
        mask = None if pair.mask is None else torch.cat([pair.mask] * field.prediction.heads, 1)
        loss, importance = Loss(terms, mask=mask), self.time_sampler.importance(drawn)
        if importance is None:
            return loss
        if self.training:
            self.time_sampler.learn(drawn, loss.per_sample.detach())
        return Loss(over(importance.to(terms), terms) * terms, mask=mask)
