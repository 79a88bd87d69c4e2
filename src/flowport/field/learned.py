"""The field a network learns."""

from dataclasses import replace

from torch import Tensor, nn

from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.prediction.base import Prediction
from flowport.types import Condition


class LearnedField(Field):
    """network(x, t, condition) read in the terms of a prediction on a path.

    ``output`` casts points of another precision than the network's for it and back; ``forward`` does not.
    sees_step: whether the network was built to be told the length of a step.
    """

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        prediction: Prediction,
        conditioning: Conditioning,
        capabilities: Capabilities,
        sees_step: bool = False,
    ) -> None:
        super().__init__(path, prediction, conditioning, capabilities)
        self.network, self.sees_step = network, sees_step

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(x, t, condition)

    def output(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        weight = next(self.network.parameters(), x)
        if weight.dtype == x.dtype:
            return self.network(x, t, condition).to(x.dtype)  # an autocast would leave it in half precision
        start = None if condition.source is None else condition.source.to(weight.dtype)
        return self.network(x.to(weight.dtype), t, replace(condition, source=start)).to(x.dtype)
