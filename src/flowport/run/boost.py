"""Residual reward boosting: towards the tilt of all results where every start keeps a law of its own.

A bridge that sees its start reaches p(x1 | x0) e^{λr}/h(x0), whose results do not follow p1 e^{λr}/Z. The law that
does, with the source kept, is f(x0) p(x0, x1) φ(x1), and rounds of tuning find φ by iterative proportional fitting (as
Liu et al. 2025, Adjoint Schrödinger Bridge Sampler, do where the base's kernel is known; here results suffice). With
q_k the law of results after round k, round k + 1 tunes the tuned flow again by the residual reward

    f_k = λr − log q_k/p1,

so that the rewards of all rounds add up to ϱ_{k+1} = ϱ_k + λr − log q_k/p1, at rest where q = p1 e^{λr}/Z. Jointly
Gaussian ends of correlation ρ with λr = cᵀx1 have ϱ_k = c_kᵀx1, c_{k+1} = c + ρ² c_k → c/(1 − ρ²).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from flowport.conditioning import Conditioning
from flowport.errors import FlowportError
from flowport.evaluation.tuning_view import means_and_errors
from flowport.field.base import Field
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.path_weights import effective, halves, largest_gap
from flowport.finetuning.reliability import LEAST_EFFECTIVE
from flowport.finetuning.residual_reward import ResidualReward
from flowport.finetuning.tilted_field import TiltedField
from flowport.finetuning.tuning_points import drawn, held_out
from flowport.run import finetune
from flowport.run.build import Parts, Run, checked_config, make
from flowport.run.certified import certified, rows_of, through
from flowport.run.config_checks import check_kind
from flowport.run.finetune import tune, tuned_config
from flowport.run.run_folder import RunFolder, going_on
from flowport.run.trainer_options import refuse_several
from flowport.tensors import float32_products
from flowport.training.finetune_module import FineTuneModule
from flowport.types import Condition

LEAST = {"rounds": 0, "points": 8, "steps": 1}
"""Least values of the keys of ``boosting``."""


def check_overrides(overrides: DictConfig, parts: Parts) -> None:
    """Check, before a base is trained, what no fine-tuning takes whatever its base.

    Args:
        overrides: The composed config of the command.
        parts: What the command has built.

    Raises:
        FlowportError: For such an option.
    """
    if not isinstance(overrides.boosting, DictConfig):
        raise FlowportError(f"boosting={overrides.boosting} must hold rounds, points, steps and network")
    for key, least in LEAST.items():
        check_kind(f"boosting.{key}", overrides.boosting[key], int, least)
    if not overrides.boosting.rounds:
        finetune.check_reward(overrides)
    else:
        refuse_several(overrides.trainer, "residual reward boosting (boosting.rounds)")
    finetune.check_overrides(overrides, parts)


def boosted(base: RunFolder, overrides: DictConfig, folder: RunFolder, parts: Parts) -> dict[str, Any]:
    """Tune a run towards a reward, then ``boosting.rounds`` times towards the tilt of all results.

    Rounds that an earlier, stopped command of the same config left in ``folder`` are not made again. Without a reward:
    rounds upon the rounds of ``base``. Every round is a run like any other; the last is in ``folder``, those before it
    in folder/rounds/<number>.

    Args:
        base: A trained run.
        overrides: The composed config of the command, which ``check_overrides`` has checked.
        folder: Of the last round.
        parts: What the command has built.

    Returns:
        The numbers of the last round.

    Raises:
        FlowportError: For a base that does not see its start, for a reward that reads more than results, and for rounds
            upon a run that is not tuned.
    """
    rounds = overrides.boosting.rounds
    if rounds:
        check_sees_start(base, rounds)
    first = overrides.get("reward") is not None or not rounds
    numbers: dict[str, Any] = {}
    for number in range(rounds + first):
        last = number == rounds + first - 1
        here = folder if last else folder.round(number)
        tuning = first and not number
        config = (tuned_config if tuning else round_config)(base, overrides, parts)
        resume = not last and here.holds(config)  # of this command, when it was stopped before
        if resume and here.finished:
            numbers = here.read_metrics()
        else:
            before = (check_reads_results,) if tuning and rounds else ()
            task = partial(tune, before=before) if tuning else boost
            step = partial(task, config, here, resume and here.begun, parts=parts)
            numbers = step() if last else going_on(number + 1, folder, step)
        base = here
    return numbers


def check_sees_start(base: RunFolder, rounds: int) -> None:
    """Check that a base has a law of results for every start, since from noise there is nothing to boost towards.

    Args:
        base: A trained run.
        rounds: Rounds of boosting that are asked for.

    Raises:
        FlowportError: For a base whose field does not see its start.
    """
    conditioning = make(checked_config(base).conditioning)
    if isinstance(conditioning, Conditioning) and not conditioning.sees_source:
        raise FlowportError(
            f"boosting.rounds={rounds} needs a base that sees its start (a bridge path with conditioning=source): the "
            f"flow in {base} has one law of results for all starts, whose tilt the tuning itself aims at, so write "
            "boosting.rounds=0"
        )


def round_config(folder: RunFolder, overrides: DictConfig, parts: Parts | None = None) -> DictConfig:
    """The config of one round more upon a tuned run; where the user named no method, by the method of that run.

    Args:
        folder: The tuned run.
        overrides: The composed config of the command.
        parts: What the command has built.

    Raises:
        FlowportError: For a run that is not tuned.
    """
    known = checked_config(folder)
    if not known.get("tuning"):
        raise FlowportError(f"boosting goes on from a tuned run, which {folder} is not: say reward=<name> too")
    asked = overrides.copy()
    OmegaConf.set_struct(asked, False)  # where no reward was said, there is no such key
    asked.strength, asked.adjoint_snr = 1.0, False
    if asked.get("stop") is not None:
        asked.stop.watched = None  # the residual reward has no terms
    asked.reward = {
        "_target_": "flowport.finetuning.residual_reward.ResidualReward",
        "network": asked.boosting.network or known.network,
        "points": asked.boosting.points,
        "steps": asked.boosting.steps,
    }
    if isinstance(make(asked.method), AutoMethod):  # the residual reward is not learnt yet, so nothing could be probed
        asked.method, asked.adapter = known.tuning[-1].method, known.tuning[-1].adapter
    config = tuned_config(folder, asked, parts)
    config.tuning[-1].round = known.tuning[-1].get("round", 0) + 1
    config.stage = {"_target_": "flowport.run.stage.BoostingStage"}
    return config


def boost(config: DictConfig, folder: RunFolder, resume: bool = False, *, parts: Parts | None = None) -> dict[str, Any]:
    """One round (or the rest of one): learn the residual reward, tune by it, and write what ``tune`` writes.

    boosting/<number> says how near the results are to the tilt of all results, before and after.

    Args:
        config: Of ``round_config``.
        folder: The round's.
        resume: Go on from the folder's last checkpoint.
        parts: What other runs of the same command have built.
    """
    return tune(
        config,
        folder,
        resume,
        parts=parts,
        before=(learn,),
        after=lambda run, here: certified(run, here) | reached(run),
    )


def check_reads_results(run: Run) -> dict[str, Any]:
    """Check that a reward reads results alone, since boosting reaches a law of results.

    Args:
        run: Built, not yet trained.

    Returns:
        No numbers.

    Raises:
        FlowportError: For a reward that reads a label or the source.
    """
    assert isinstance(run.module, FineTuneModule)
    try:
        run.module.reward.value(run.data.pairing.target.sample(2, torch.Generator()).x, Condition())
    except (FlowportError, AttributeError, TypeError) as error:  # a reward of the user's does not refuse None by itself
        raise FlowportError(
            f"boosting reaches a law of results, so its reward may read nothing else: {error}"
        ) from None
    return {}


def learn(run: Run) -> dict[str, Any]:
    """Learn the residual reward of a round from the training split.

    Args:
        run: Built, not yet trained.

    Returns:
        boosting/before_<number>, on the starts of the test split of ``reached``, and the cross-entropy.
    """
    module = run.module
    assert isinstance(module, FineTuneModule) and isinstance(module.reward, ResidualReward)
    base, tuned, value = results(run, module.ema.base, "train")
    generator = module.randomness.generator("residual reward", 0, base.device)
    before = distance(*results(run, module.ema.base, "test"))
    numbers = {f"before_{name}": number for name, number in before.items()}
    numbers["cross_entropy"] = module.reward.fit(base, tuned, value, generator)
    return {f"boosting/{name}": number for name, number in numbers.items()}


def reached(run: Run) -> dict[str, Any]:
    """boosting/<number> of the tuned flow, on the test split.

    Args:
        run: A trained run.
    """
    found = distance(*results(run, run.module.ema, "test"))
    return {f"boosting/{name}": number for name, number in found.items()}


@float32_products(tf32=False)
def results(run: Run, field: Field, split: str) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Results (n, *D) of the flow before all rounds, those of ``field`` from the same starts and noise, and x1 -> λr.

    Args:
        run: Whose sampler is used.
        field: The flow of the second results.
        split: Of the starts: ``"train"``, from which the residual reward is learnt, or ``"test"``, whose stored starts
            are used once each (``held_out``).
    """
    module, rounds = run.module, run.config.tuning[-1].round
    assert isinstance(module, FineTuneModule)
    device, randomness = next(module.parameters()).device, module.randomness.under(f"boosting {split}")
    entry, base = run.config.tuning[-1 - rounds], module.ema.base
    for _ in range(rounds):
        assert isinstance(base, TiltedField)
        base = base.base
    sides = run.data.placed(device).split(split)
    chosen, n = (drawn, run.config.tuning[-1].reward.points) if split == "train" else (held_out, run.config.certified)
    pair = chosen(sides.source, sides.target, n, randomness)
    first, last = through(run, pair, randomness.generator("noise"), base, field)
    reward = run.parts.reward(entry.reward, module.target)
    reward.check(module.source, module.target)
    reward.piece_rows = rows_of(run)
    return first, last, lambda x1: entry.strength * reward.to(x1.device).value(x1, Condition()).double()


def distance(base: Tensor, tuned: Tensor, value: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """How far tuned results are from the tilt of all results.

    Args:
        base: Results of the base, (n, *D).
        tuned: Results of the tuned flow, (n, *D).
        value: x1 -> λr.

    Returns:
        scaled_reward, scaled_base_reward: mean λr; scaled_tilted_reward: of base results weighted by e^{λr}, so of the
        tilt; gap: the clearest difference of a coordinate's mean between tuned results and the tilt, in standard
        deviations of the tilt (``largest_gap``); each with its standard error _se; effective: the effective number of
        these weights. Where fewer than 10 are effective, tilted_withheld says so in the place of the tilt's numbers.
    """
    reward, x = value(base).double(), base.flatten(1).double()
    w = reward.softmax(0)
    left = float(effective(w, 1)) * len(w)
    means = {"scaled_reward": value(tuned), "scaled_base_reward": reward}
    numbers: dict[str, Any] = {"effective": left}
    if left < LEAST_EFFECTIVE:
        numbers["tilted_withheld"] = f"unreliable: {left:.0f} effective samples of {len(w)}"
    else:
        pull, tilted = len(w) * w, w @ x
        centre = w @ reward
        means["scaled_tilted_reward"] = centre + pull * (reward - centre)
        rows = tuned.flatten(1).double() - tilted - pull[:, None] * (x - tilted)  # their mean is the difference
        gap, error = largest_gap(*halves(rows), (w @ (x - tilted).square()).sqrt())
        numbers |= {"gap": float(gap), "gap_se": float(error)}
    return numbers | means_and_errors(means)
