"""The terms of a sum of rewards are told apart, also those of latents."""

import torch

from flowport.modality import Plane
from flowport.reward import DecodedReward, LinearReward, SumReward
from flowport.reward.single_terms import term_names, term_values
from flowport.types import Condition


class Doubled(Plane):
    """Latents that are half of what they stand for."""

    def observed(self, x):
        return 2 * x


def test_terms_have_their_own_values_whatever_their_weights():
    x, right, up = torch.tensor([[1.0, 3.0], [2.0, -1.0]]), LinearReward([1.0, 0.0]), LinearReward([0.0, 1.0])
    reward = SumReward({"right": right, "up": up}, {"right": 2.0, "up": 0.0})
    for each, factor in ((reward, 1.0), (DecodedReward(reward, Doubled()), 2.0)):
        found = term_values(each, x, Condition(source=x))
        assert term_names(each) == list(found) == ["right", "up"]
        torch.testing.assert_close(torch.stack(list(found.values()), 1), factor * x)
    assert term_names(right) == [] and term_values(right, x, Condition()) == {}
