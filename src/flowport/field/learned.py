"""The field of a neural network.

References:
    Lipman et al. 2022, "Flow matching for generative modeling", arXiv:2210.02747.
    Albergo et al. 2023, "Stochastic interpolants: a unifying framework for flows and diffusions", arXiv:2303.08797.
"""

from dataclasses import replace

from torch import Tensor, nn

from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.prediction.base import Prediction
from flowport.tensors import over
from flowport.types import Condition


class LearnedField(Field):
    """The output of a network, network(x, t, condition), read by a prediction on a path.

    The network sees c_in x, with c_in the prediction's ``input_scale``. ``output`` casts points to the precision of the
    network and its result back; ``forward`` does not.

    Args:
        network: A module (x, t, condition) -> (B, heads·C, *rest).
        path: Probability path.
        prediction: What the output means.
        conditioning: What the field is a function of beside x and t.
        capabilities: The role of the path's noise, and whether the field has a score.
        sees_step: Whether the network was built to accept step lengths.
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

    def _seen(self, x: Tensor, t: Tensor) -> Tensor:
        scale = self.prediction.input_scale(self.path, t)
        return x if scale is None else over(scale, x).to(x.dtype) * x

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(self._seen(x, t), self.prediction.network_time(self.path, t), condition)

    def output(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        weight, seen = next(self.network.parameters(), x), self._seen(x, t)
        t = self.prediction.network_time(self.path, t)
        if weight.dtype == x.dtype:
            return self.network(seen, t, condition).to(x.dtype)  # under autocast the output has half precision
        start = None if condition.source is None else condition.source.to(weight.dtype)
        return self.network(seen.to(weight.dtype), t, replace(condition, source=start)).to(x.dtype)
