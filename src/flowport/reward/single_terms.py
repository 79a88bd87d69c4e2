"""The single terms of a sum of rewards, by which it shows that one of them is won at the cost of another."""

from torch import Tensor

from flowport.reward.base import Reward
from flowport.reward.decoded import DecodedReward
from flowport.reward.sum import SumReward
from flowport.types import Condition


def term_values(reward: Reward, x1: Tensor, condition: Condition) -> dict[str, Tensor]:
    """The values r_k of the terms of a sum Σ_k w_k r_k by name, each (B,) and without its weight.

    A term of weight 0 is watched alone. A reward that is no sum has no terms.

    Args:
        reward: A reward.
        x1: Encoded end points, (B, *D).
        condition: What the flow is conditioned on, B rows.
    """
    if isinstance(reward, DecodedReward):
        source = None if condition.source is None else reward.modality.observed(condition.source)
        return term_values(reward.reward, reward.modality.observed(x1), Condition(condition.label, source))
    return {name: term.value(x1, condition) for name, term in _terms(reward).items()}


def term_names(reward: Reward) -> list[str]:
    """The names of the terms of a sum; none of another reward.

    Args:
        reward: A reward.
    """
    return term_names(reward.reward) if isinstance(reward, DecodedReward) else list(_terms(reward))


def _terms(reward: Reward) -> dict[str, Reward]:
    terms = reward.terms.items() if isinstance(reward, SumReward) else ()
    return {name: term for name, term in terms if isinstance(term, Reward)}
