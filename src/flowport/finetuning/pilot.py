"""The pilot's rules: which fine-tuning method, adapter and options fit a base and a reward.

The rules are a table (``RULES``) and are pure; ``flowport.finetuning.probe`` measures what they read. The same table is
in docs/guides/fine_tuning.md, which a test compares with ``table()``. What they rest on is measured in
docs/results/arena.md and docs/results/fine_tuning.md.

References:
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flowport.conditioning import Conditioning, SourceLabelConditioning, TargetLabelConditioning
from flowport.errors import FlowportError
from flowport.finetuning.adjoint_snr import SIGNAL, AdjointSNR
from flowport.finetuning.reliability import LEAST_EFFECTIVE, LEAST_STARTS

FEW_NUMBERS = 64
"""Largest number of coordinates of a point at which weights of whole controlled paths are relied on."""
KEPT = 0.05
"""Effective size of the weights e^{λr} of base results, a share, from which the base's own results show the tilt."""
FEW_RESULTS = 10
"""Effective number of base results below which less is fitted to each and the adjoint joins earlier. Where so few carry
the weights, their share of the probe's paths says little: results with larger weights may not be among them."""
SHOWN = 0.5
"""Effective size, a share, below which the KL of the tilt is not stated: its ± 2 errors would cover less than 85 %."""
NO_LOW_RANK = (
    "adapter=control, since the library of adapter=low_rank is not installed (pip install 'flowport[lora]'), which "
    "came nearer to a tilt of MNIST in as many steps (docs/results/fine_tuning.md)"
)
FAR = (
    f"an effective size below {KEPT} means that the tilt lies far from the base's data: where results shall stay like "
    "these, take a lower strength, or on the command line say stop.energy=5 (nats of KL to the base)"
)
BLIND = (
    f"with a signal below {SIGNAL} it may gain little: see the certificate's share, lower strength, or take more starts"
)
"""What a choice is told with where its adapter is the second best, its tilt is strong, or its adjoint says little."""


@dataclass(frozen=True)
class Signals:
    """What a probe measures of a base and a reward.

    Args:
        numbers: Coordinates of a point.
        gradient: Whether the reward has a gradient.
        effective: Effective sample size of the weights e^{λr} of base results, a share in (0, 1]; given the start on a
            bridge, given the class where one is told.
        signal: Least signal-to-noise ratio of the adjoint; None where it was not measured.
        signal_se: Its standard error.
        told: Whether the flow is told a class.
        bridge: Whether the flow is a bridge that sees its start.
        kl: KL of the tilt to the base in nats, estimated from the same weights.
        kl_se: Its standard error.
        calls: Number of evaluations of the reward that the probe took.
        paths: Number of base results from which the effective size is estimated.
        each: Number of them from one start on a bridge, of one class where one is told; None: all.
        low_rank: For points that are pictures, (C, H, W), whether the library of low-rank updates is installed; None
            for other points, and where the user said something of an adapter's network, which they do not have.
    """

    numbers: int
    gradient: bool
    effective: float
    signal: float | None = None
    signal_se: float = 0.0
    told: bool = False
    bridge: bool = False
    kl: float = 0.0
    kl_se: float = 0.0
    calls: int = 0
    paths: int = 256
    each: float | None = None
    low_rank: bool | None = None

    @property
    def facts(self) -> Mapping[str, bool]:
        """Answers to the questions of the table, by name."""
        return {
            "many": self.numbers > FEW_NUMBERS,
            "gradient": self.gradient,
            "apart": self.signal is not None and self.signal + self.signal_se < SIGNAL,
            "kept": self.effective >= KEPT,
            "few": not self.bridge and self.effective * self.paths < FEW_RESULTS,
            "told": self.told,
            "bridge": self.bridge,
        }

    def withheld(self) -> dict[str, str]:
        """Why a number is not stated, by its name."""
        each = self.each or self.paths
        left, reasons = self.effective * each, dict[str, str]()
        if each < LEAST_EFFECTIVE:
            reasons["effective"] = f"unreliable: {each:.1f} results of a class or start"
        if left < LEAST_EFFECTIVE:
            reasons["kl"] = f"unreliable: {left:.1f} of {each:.0f} results are effective, fewer than {LEAST_EFFECTIVE}"
        elif self.effective < SHOWN:
            reasons["kl"] = f"unreliable: {left:.0f} of {each:.0f} results are effective, a smaller share than {SHOWN}"
        elif self.bridge and self.paths / each < LEAST_STARTS:
            starts = f"{self.paths / each:.0f} starts, fewer than {LEAST_STARTS}"
            reasons["kl"] = f"paths from {starts}, give no standard error that covers"
        return reasons

    def sentence(self) -> str:
        """The numbers as they are logged."""
        where = " given the start" if self.bridge else " given the class" if self.told else ""
        few = self.withheld().get("effective")
        size = f"not measured ({few})" if few else f"{self.effective:.2g}"
        parts = [f"{self.numbers} numbers a point", f"effective size of base weights{where} {size}"]
        parts += [] if self.gradient else ["no gradient"]
        if self.signal is not None:
            parts.append(f"adjoint signal {self.signal:.2g} ± {self.signal_se:.1g}")
        return ", ".join(parts)


QUESTIONS = {
    "many": f"more than {FEW_NUMBERS} numbers a point?",
    "gradient": "reward has a gradient?",
    "apart": f"decided early (separated modes): adjoint signal below {SIGNAL}?",
    "kept": f"effective size of base weights at least {KEPT}?",
    "told": "class told?",
}
"""Columns of the table: fact -> question."""


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        when: The facts that it needs, name to answer; what is not in it does not matter.
        method: Config name of the method.
        why: What speaks for it.
        options: Options of the method.
    """

    when: Mapping[str, bool]
    method: str
    why: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def fits(self, facts: Mapping[str, bool]) -> bool:
        """Whether the facts are those that the rule needs.

        Args:
            facts: Of ``Signals``.
        """
        return all(facts[name] is answer for name, answer in self.when.items())


RULES = (
    Rule(
        {"many": False, "gradient": True},
        "path_weighted_adjoint",
        "weights of whole paths hold in few dimensions, and find the weights of separated modes",
    ),
    Rule({"many": False, "gradient": False}, "path_weighted", "the same without a gradient"),
    Rule(
        {"many": True, "gradient": True, "apart": True, "kept": True, "told": False},
        "value_matching",
        "it is decided early, where the adjoint says little; the value is learnt as a number from base results",
        {"grid.steps": 10, "batch": 256},
    ),
    Rule(
        {"many": True, "gradient": True},
        "adjoint_matching",
        "weights of whole paths are lost in many dimensions; the reward's gradient is not",
        {"early": 4, "steps_per_rollout": 4},
    ),
    Rule(
        {"many": True, "gradient": False, "kept": True, "told": False},
        "value_matching",
        "without a gradient the value is learnt as a number from base results",
        {"grid.steps": 10, "batch": 256},
    ),
    Rule(
        {"many": True, "gradient": False},
        "policy_gradient",
        "a black box where base results do not show the tilt; its clipped ratios keep it near the base, and it aims at "
        "the tilt itself by method.clip=null alone",
    ),
)
"""The table; the first row that fits is taken."""

REFINEMENTS: tuple[tuple[Mapping[str, bool], frozenset[str], Mapping[str, Any]], ...] = (
    (
        {"few": True},
        frozenset({"path_weighted_adjoint"}),
        {"late": 0.65, "batch": 256, "replay_size": 40},
    ),
    (
        {"bridge": True},
        frozenset({"path_weighted_adjoint", "path_weighted"}),
        {"batch": 256, "replay_size": 40, "grid.steps": 80},
    ),
)
"""(facts, methods, options): what these methods take in such cases."""


@dataclass(frozen=True)
class Choice:
    """What the pilot chose.

    Args:
        method: Config name of the method.
        adapter: Config name of the adapter.
        why: The sentence that says what was chosen and why.
        options: Options of the method, name to value.
    """

    method: str
    adapter: str
    why: str
    options: Mapping[str, Any]


def adapter_for(method: str, low_rank: bool | None = None) -> str:
    """The adapter that a method takes where the user names none.

    Low-rank updates of the base came nearer to a tilt of MNIST in as many steps than a control network of its own
    (docs/results/fine_tuning.md), so pictures take them.

    Args:
        method: Config name of the method.
        low_rank: Of ``Signals``.
    """
    if method == "value_matching":
        return "value"
    return "low_rank" if low_rank and method == "adjoint_matching" else "control"


def choose(signals: Signals, adapter: str | None = None) -> Choice:
    """The method for what a probe measured, by the first row of ``RULES`` that fits.

    Args:
        signals: What was measured.
        adapter: The adapter that the user named; None: the method's own (``adapter_for``). With another one than
            ``"value"`` no value can be learnt as a number, so that such rows are passed over.

    Raises:
        FlowportError: Where no row fits.
    """
    possible = [r for r in RULES if adapter in (None, "value") or r.method != "value_matching"]
    rule = next((r for r in possible if r.fits(signals.facts)), None)
    if rule is None:
        raise FlowportError(f"method=auto has no method for this problem ({signals.sentence()}): say method=<name>")
    options = dict(rule.options)
    for facts, methods, more in REFINEMENTS:
        if rule.method in methods and Rule(facts, rule.method, "").fits(signals.facts):
            options |= {name: value for name, value in more.items() if signals.gradient or name != "late"}
    adjoint = rule.method == "adjoint_matching"
    notes = [NO_LOW_RANK] if adapter is None and signals.low_rank is False and adjoint else []
    notes += [BLIND] if adjoint and signals.facts["apart"] else []
    notes += [FAR] if signals.facts["many"] and not signals.facts["kept"] else []
    return Choice(
        rule.method,
        adapter or adapter_for(rule.method, signals.low_rank),
        "; ".join([f"method={rule.method}: {signals.sentence()}", rule.why, *notes]),
        options,
    )


def advice(found: AdjointSNR, numbers: int, conditioning: Conditioning) -> str:
    """What to use where the adjoint of adjoint matching cannot see the answer, by the pilot's own rules.

    Args:
        found: What was measured of the adjoint.
        numbers: Coordinates of a point.
        conditioning: Of the flow.
    """
    told = isinstance(conditioning, TargetLabelConditioning | SourceLabelConditioning)
    signal = 0.0 if found.blind else None
    chosen = choose(Signals(numbers, True, found.effective, signal, 0.0, told, conditioning.sees_source))
    if chosen.method != "adjoint_matching":
        return _named(chosen.method)
    return "a smaller strength, or more than one method and the certificate's comparison of them"


def _named(method: str) -> str:
    adapter = adapter_for(method)
    return f"method={method}" + (" with adapter=value" if adapter == "value" else "")


def table() -> str:
    """``RULES`` as a Markdown table, as docs/guides/fine_tuning.md has it."""
    lines = [f"| {' | '.join(QUESTIONS.values())} | method | why |", "|---" * (len(QUESTIONS) + 2) + "|"]
    said = {True: "yes", False: "no"}
    for rule in RULES:
        answers = [said[rule.when[name]] if name in rule.when else "–" for name in QUESTIONS]
        options = "".join(f" `method.{key}={value}`" for key, value in rule.options.items())
        adapter = " `adapter=value`" if adapter_for(rule.method) == "value" else ""
        lines.append(f"| {' | '.join(answers)} | `{rule.method}`{adapter}{options} | {rule.why} |")
    return "\n".join(lines)
