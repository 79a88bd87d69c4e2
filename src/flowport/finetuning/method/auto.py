"""The choice of a method by a short probe, where the user names none.

References:
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
"""

from typing import Annotated, final

from flowport.errors import Checked, Range


@final
class AutoMethod(Checked):
    """No method of its own: a probe of the base and the reward chooses one before tuning (``finetuning.pilot.choose``).

    Args:
        paths: Paths of the base, each with one evaluation of the reward; fewer where the tuning itself has few starts.
        branches: Paths continued from each state at which the adjoint's signal is measured, at least 8 states (16 on a
            bridge) and as many paths in all as ``paths`` where that is more. They are continued only for points of many
            numbers and rewards with a gradient.

    References:
        Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
            doi:10.1080/01621459.1994.10476469.
    """

    def __init__(
        self, paths: Annotated[int, Range(least=32)] = 256, branches: Annotated[int, Range(least=8)] = 16
    ) -> None:
        self.paths, self.branches = paths, branches
