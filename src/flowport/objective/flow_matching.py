"""Flow matching: regression of a field on the velocity, end point, score or noise of the path of a pair."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from flowport.field.base import Field
from flowport.objective.base import Loss, Objective
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import Weighting
from flowport.tensors import over
from flowport.types import Pair


class FlowMatching(Objective, nn.Module):
    """Flow matching, E w(t) |field(x_t, t, condition) − y|²/dim(y) with x_t = α x0 + β x1 + γ z.

    y is the target of the field's prediction: the velocity of the pair, ẋ_t = α̇ x0 + β̇ x1 + γ̇ z, the end point x1 or
    x0, the score of the pair, or velocity and noise by two heads of equal weight. The minimiser is
    E[y | x_t, condition], for any source, target and coupling. The times of the sampler are mapped linearly from [0, 1]
    onto those at which the prediction is finite (``prediction.times``), since on [0, 1] the loss of a score is
    infinite. Where a pair has a mask (``Pair.mask``), the mean is over the coordinates that are data at both ends.

    Args:
        time_sampler: Law of t; a sampler that learns does so in training mode only, with its state in checkpoints.
        weighting: Weight w(t).

    References:
        Lipman et al. 2022, "Flow matching for generative modeling", arXiv:2210.02747.
        Albergo and Vanden-Eijnden 2022, "Building normalizing flows with stochastic interpolants", arXiv:2209.15571.
        Liu et al. 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
        arXiv:2209.03003.
    """

    def __init__(self, time_sampler: TimeSampler, weighting: Weighting) -> None:
        super().__init__()
        self.time_sampler, self.weighting = time_sampler, weighting

    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        x0, path = pair.source.x, field.path
        drawn = self.time_sampler(len(x0), generator)
        t, slope = field.prediction.times(path, drawn.to(x0.dtype))
        z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype) if path.bridge else None
        sample = path.sample(pair, t, z)
        condition = field.conditioning.training(pair, generator)
        output, target = field.output(sample.x, t, condition), field.prediction.target(path, sample)
        error = mse_loss(output.float(), target.float(), reduction="none")
        weight = self.weighting(t, field, self.time_sampler.density(drawn) / slope)
        terms = error if weight is None else over(weight.float(), error) * error
        mask = None if pair.mask is None else torch.cat([pair.mask] * field.prediction.heads, 1)
        loss, importance = Loss(terms, mask=mask), self.time_sampler.importance(drawn)
        if importance is None:
            return loss
        if self.training:
            self.time_sampler.learn(drawn, loss.per_sample.detach())
        return Loss(over(importance.to(terms), terms) * terms, mask=mask)
