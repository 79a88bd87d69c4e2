"""When a tuning is stopped: at a budget of KL to its base, or where a watched reward falls below its base value."""

from collections.abc import Mapping

from flowport.errors import Checked, FlowportError, Positive, check_range
from flowport.evaluation.tuning_view import REWARD, TERM, TunedResults

ENERGY = "energy"


class StopRule(Checked):
    """Limits of a tuning that is watched every so many steps: the first results beyond one of them stop it.

    The weights that were watched last within all limits are kept. Without limits nothing stops a tuning, and its last
    weights are kept.

    Args:
        energy: Control energy, KL(P ‖ P_base) of the paths, in nats: stopped where its mean reaches it; None: no limit.
        watched: Name of a term of the reward, or ``"reward"`` itself, -> number of standard errors: it stops where the
            mean of what the term won from the same starts and noise is that far below 0.

    Raises:
        FlowportError: For a number of standard errors that is not above 0.
    """

    def __init__(self, energy: Positive | None = None, watched: Mapping[str, float] | None = None) -> None:
        self.energy, self.watched = energy, dict(watched or {})
        for name, limit in self.watched.items():
            check_range(f"stop.watched.{name}", limit, Positive)

    @property
    def limits(self) -> dict[str, float]:
        """The limits by their keys: ``energy``, ``watched.<name>``."""
        own = {} if self.energy is None else {ENERGY: float(self.energy)}
        return own | {f"watched.{name}": float(limit) for name, limit in self.watched.items()}

    def check(self, terms: list[str]) -> None:
        """Check that the watched rewards exist.

        Args:
            terms: Names of the terms of the run's reward.

        Raises:
            FlowportError: Naming one that does not.
        """
        known = [REWARD, *terms]
        for name in self.watched:
            if name not in known:
                raise FlowportError(
                    f"stop.watched.{name} is no term of this run's reward: choose {' or '.join(known)}, or add it to "
                    "the reward with weight 0"
                )

    def broken(self, results: TunedResults) -> str | None:
        """The key of the first limit that results are beyond; None where they are within all.

        Args:
            results: Of the tuned flow and its base.
        """
        if self.energy is not None and not float(results.energy.double().mean()) < self.energy:
            return ENERGY
        for name, limit in self.watched.items():
            change = results.change(REWARD if name == REWARD else f"{TERM}{name}")
            if not change.mean >= -limit * change.error:
                return f"watched.{name}"
        return None


def in_config_words(limits: Mapping[str, float]) -> str:
    """Limits as a config has them, ``stop.energy=5 and stop.watched.left=2``; empty without any.

    Args:
        limits: Of ``StopRule.limits``.
    """
    return " and ".join(f"stop.{key}={repr(limit).removesuffix('.0')}" for key, limit in limits.items())
