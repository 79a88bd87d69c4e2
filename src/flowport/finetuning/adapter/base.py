"""Adapters: the trainable change of a frozen velocity field."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from flowport.errors import Checked, FlowportError, option
from flowport.field.tilt_gains import TiltGains
from flowport.tensors import scaled
from flowport.types import Condition


class Adapter(Checked, nn.Module, ABC):
    """Trainable change of a frozen field, as a change Δv of its velocity or as the control G ≈ ∇ log h.

    h_t(x) = E[e^{λr(X1)} | X_t = x] under the base's memoryless SDE, given x0 on a bridge whose field sees x0. With n
    the weight of the path's noise (α where the source is the noise, γ on such a bridge) and the memoryless volatility
    g² = 2η, η = n(nβ̇ − ṅβ)/β, the tilted flow has

        Δv = η G,    Δs = G,    ΔE[x1 | x] = (n²/β) G,

    so that the tuned velocity can be used with any sampler. A member provides ``velocity``; one whose natural output is
    G also overrides ``tilt``, and the two must agree by Δv = η G. Before training Δv = 0.

    To add a member: subclass this class in a new module of this folder with the constructor arguments ``base``,
    ``event_shape`` and ``condition`` followed by its options, export it in ``__init__.py``, add
    ``configs/adapter/<name>.yaml`` with ``_target_`` and ``_partial_: true``, and test it in
    tests/finetuning/test_adapters.py.

    Attributes:
        needs_base: Whether ``velocity`` and ``tilt`` read the base's velocity; where False, ``base`` is a placeholder.
        has_log_value: Whether G is the gradient of ``log_value``.
        differentiates: Whether ``velocity`` and ``tilt`` hold a gradient of the network, so that their training
            differentiates it twice.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861.
    """

    needs_base: ClassVar[bool] = True
    has_log_value: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "TiltGains") -> Tensor:
        """Change of the velocity Δv(x, t), (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            base: The base's velocity at (x, t), (B, *D).
            gains: Weights of the tilt at t.
        """

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "TiltGains") -> Tensor:
        """Control G(x, t) = Δv/η, (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            base: The base's velocity at (x, t), (B, *D).
            gains: Weights of the tilt at t or later, so that G can differ from 0 at the start, where β = 0.
        """
        return scaled(1 / gains.eta, self.velocity(x, t, condition, base, gains))

    def log_value(self, x: Tensor, t: Tensor, condition: Condition, gains: "TiltGains") -> Tensor:
        """Log value log h_t(x)/h_0, (B,), of which G is the gradient in x.

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            gains: Weights of the tilt at t.

        Raises:
            FlowportError: For an adapter that is not the gradient of a value.
        """
        raise FlowportError(f"{option('adapter', self)} has no value to learn as a number: use adapter=value")
