"""A coupling that the second of two processes refuses."""

from flowport.coupling import IndependentCoupling
from flowport.errors import FlowportError
from flowport.run.rank_place import here


class RefusingCoupling(IndependentCoupling):
    """Refused where the process is the second one."""

    def __init__(self) -> None:
        place = here()
        if place is not None and place.rank == 1:
            raise FlowportError("the second process refuses")
