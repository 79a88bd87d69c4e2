"""What a tuned run reports of itself: the certificate of its chain, its own sampler and the base's, and a picture."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from flowport.evaluation.tuning_view import means_and_errors, squared_deviations
from flowport.field import Field
from flowport.finetuning.certificate import BLIND_SPOT, Certificate, certificate
from flowport.finetuning.term_gains import term_gains
from flowport.finetuning.tuning_points import held_out
from flowport.network.pieces import pieces_of
from flowport.reward import Reward
from flowport.run.build import Run
from flowport.run.run_folder import RunFolder
from flowport.tensors import float32_products
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Pair

logger = logging.getLogger(__name__)
APART = 0.05
"""Memory, in nats², from which on the tilt of every start is called another than that of all results."""
MIXED = {
    **dict.fromkeys(("bf16-mixed", "bf16"), torch.bfloat16),
    **dict.fromkeys(("16-mixed", "16"), torch.float16),
}
"""Precisions of Lightning's under which networks run in autocast."""


@float32_products(tf32=False)
def certified(run: Run, folder: RunFolder) -> dict[str, Any]:
    """certificate/<number>, its _se or why it is _withheld; sampled/<number>; and the picture before_after.png.

    Args:
        run: A trained run.
        folder: Where the picture goes.
    """
    module = run.module
    assert isinstance(module, FineTuneModule)
    device, randomness = next(module.parameters()).device, module.randomness.under("certificate")
    test, asked = run.data.placed(device).split("test"), run.config.certified
    pair = held_out(test.source, test.target, asked, randomness)
    with autocast_of(run, device), pieces_of(rows_of(run), module.ema, *rewards_of(module)):
        found = certificate(
            module.ema,
            module.reward,
            module.strength,
            pair,
            randomness.generator("paths"),
            paths=asked,
        )
    if len(pair) < asked:
        paths = int(found.values["paths"]) // 2
        logger.info("certified=%d: the test split has %d items, %d paths are from them", asked, len(pair), paths)
    tell(module, found, run.config.tuning[-1].get("round", 0))
    numbers = {f"certificate/{name}": number for name, number in found.numbers.items()}
    return {**numbers, **sampled(run, folder, pair, randomness.generator("samples"))}


def rows_of(run: Run) -> int:
    """Rows of which networks and rewards hold the activations at a time after training: at most those of a collection.

    Args:
        run: A tuned run.
    """
    assert isinstance(run.module, FineTuneModule)
    return run.module.rows or int(run.config.data.batch)


def rewards_of(module: FineTuneModule) -> tuple[Reward, ...]:
    """The reward and its terms, which are also evaluated alone.

    Args:
        module: The tuned module.
    """
    return module.reward, *module.reward.term_rewards.values()


def autocast_of(run: Run, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the networks of a run are evaluated as in its training: autocast in mixed precision.

    Args:
        run: The run.
        device: Of its networks.
    """
    half = MIXED.get(str(run.config.trainer.get("precision")))
    return nullcontext() if half is None else torch.autocast(device.type, dtype=half)


def tell(module: FineTuneModule, found: Certificate, boosting: int = 0) -> None:
    """Log a certificate, what it cannot see, and what follows from it.

    Args:
        module: The tuned module.
        found: Its certificate.
        boosting: Number of the round of boosting, from 1; 0 for a tuning by the reward itself.
    """
    if boosting:
        logger.info(
            "round %d of boosting: the certificate is of this round, its base is the flow before it and its reward the "
            "residual one; boosting/… compares with the flow before all rounds",
            boosting,
        )
    logger.info("aimed at %s; %s (%s)", module.method.target, found.sentence, BLIND_SPOT)
    temper = module.replay[-1].record.get("temper") if module.replay else None
    if temper is not None and float(temper) < 1:
        logger.warning(
            "the last paths of training reach no part of the strength: at none have their weights the effective size "
            "method.ess, so they were tempered by the power %.2f, which aims at less than the tilt",
            float(temper),
        )
    if not boosting and "memory" in found.values and found.values["memory"] - 2 * found.errors["memory"] > APART:
        logger.info(
            "the tilt of every start is not that of all results (certificate/memory %s): boosting.rounds=3 goes on "
            "towards it",
            found.told("memory"),
        )


def through(run: Run, pair: Pair, generator: torch.Generator, *fields: Field) -> list[Tensor]:
    """Results of several flows from the same starts and the same noise, by the run's own sampler, each (n, *D).

    Args:
        run: Whose sampler, precision and ``rows_of`` are used.
        pair: Starts, and the labels of the targets.
        generator: Of the noise.
        *fields: The flows.
    """
    state, ends = generator.get_state(), []
    for field in fields:
        generator.set_state(state)
        with autocast_of(run, pair.source.x.device), pieces_of(rows_of(run), field):
            ends.append(run.sampler.translator(field).forward(pair.source, generator, pair.target.label).end)
    return ends


def sampled(run: Run, folder: RunFolder, pair: Pair, generator: torch.Generator) -> dict[str, float]:
    """The same starts and noise through the base and the tuned flow by the run's own sampler; writes before_after.png.

    sampled/reward, base_reward: mean r; gain: mean of the r that every start won; spread, base_spread: variance of a
    number of the results; each with its standard error _se. And those of ``term_gains``, for each term of a sum.

    Args:
        run: A trained run.
        folder: Where the picture goes.
        pair: Starts, and the labels of the targets.
        generator: Of the noise.
    """
    module, modality = run.module, run.module.target.modality
    assert isinstance(module, FineTuneModule)
    base, tuned = through(run, pair, generator, module.ema.base, module.ema)
    condition = module.ema.conditioning.sampling(pair.source, pair.target.label)
    with pieces_of(rows_of(run), *rewards_of(module)):
        before, after = (module.reward.value(x, condition).double() for x in (base, tuned))
        terms = term_gains(module.reward, base, tuned, condition)
    means = {"reward": after, "base_reward": before, "gain": after - before}
    means |= {"spread": squared_deviations(tuned), "base_spread": squared_deviations(base)}
    numbers = terms | {f"sampled/{name}": value for name, value in means_and_errors(means).items()}
    if run.config.get("gallery", True):
        shown = slice(modality.shown)
        pictures = {"source": pair.source.x[shown], "base": base[shown], "tuned": tuned[shown]}
        picture = {name: modality.observed(x).cpu() for name, x in pictures.items()}
        under = {"base": before[shown].cpu(), "tuned": after[shown].cpu()}
        modality.surface().sheet(picture, under, str(folder.before_after))
    return numbers
