"""What every term of a reward was before and after a tuning, so that a reward that is exploited shows."""

import logging

from torch import Tensor

from flowport.reward.base import Reward
from flowport.tensors import standard_error
from flowport.types import Condition

logger = logging.getLogger(__name__)


def term_gains(reward: Reward, base: Tensor, tuned: Tensor, condition: Condition) -> dict[str, float]:
    """Means of every term r_k, unweighted, over results of the base and of the tuned flow; also said in the log.

    Args:
        reward: The reward; one without terms has no numbers.
        base: Results of the base, (n, *D), n ≥ 2.
        tuned: Results of the tuned flow, (n, *D), row k from the same start as row k of ``base``.
        condition: What both flows are conditioned on, n rows.

    Returns:
        sampled/term_<name>, base_term_<name>: the mean after and before; term_<name>_se, base_term_<name>_se: their
        standard errors; term_<name>_gain, term_<name>_gain_se: mean and standard error of what every start won.
    """
    values = {"base_": reward.term_values(base, condition), "": reward.term_values(tuned, condition)}
    numbers = dict[str, float]()
    for name, weight in reward.term_weights.items():
        before, after = (values[prefix][name].double() for prefix in ("base_", ""))
        for key, found in (
            (f"base_term_{name}", before),
            (f"term_{name}", after),
            (f"term_{name}_gain", after - before),
        ):
            numbers[f"sampled/{key}"] = float(found.mean())
            numbers[f"sampled/{key}_se"] = float(standard_error(found))
        logger.info(
            "%s (%s): %.4g before, %.4g after, won %.3g ± %.2g",
            name,
            f"weight {weight:g}" if weight else "watched",
            *(numbers[f"sampled/{key}"] for key in (f"base_term_{name}", f"term_{name}")),
            *(numbers[f"sampled/term_{name}_gain{end}"] for end in ("", "_se")),
        )
    return numbers
