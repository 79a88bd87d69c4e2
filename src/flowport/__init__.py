"""flowport: flows from any distribution to any distribution.

Conventions, on which every module relies
-----------------------------------------
* Time ``t`` in [0, 1]: **source at 0, target at 1**. ``t`` has shape (B,), ``x`` has shape (B, *D);
  :func:`flowport.tensors.over` is the only place that broadcasts time over data. ``t`` and path coefficients stay
  float32 or float64; only network inputs are cast down.
* Path ``x_t = α(t) x0 + β(t) x1 + γ(t) z``, ``z ~ N(0, I)``: α multiplies the source, β the target, γ the
  bridge noise, which most paths do without.
* Velocity ``v(x, t) = E[α̇ x0 + β̇ x1 + γ̇ z | x_t = x]``; score ``s = ∇ log p_t``.
* ``dX = (v + g²/2 · s) dt + g dW`` has the marginals ``p_t`` for every volatility ``g(t) ≥ 0``.
* A coupling returns indices, never permuted tensors: labels, masks and ids stay with their points.
* Nothing is called ``sigma`` alone: ``path.noise``, ``path.sigma_min``, ``coupling.epsilon``, ``volatility.scale``.
* Randomness has no hidden state: every generator is seeded from (seed, purpose, rank, number of the batch), and torch's
  own, which dropout uses, is seeded anew for every batch.

Reading order: ``configs/train.yaml`` (a run as a sentence), ``flowport.objective`` (the loss),
``flowport.training.flow_module`` (the LightningModule), then the families: ``distribution``, ``coupling``, ``path``,
``prediction``, ``field``, ``sampling``, ``metric``. ``flowport.api`` is the front door from Python.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_API = ("Flow", "compose", "couple", "finetune", "fit", "load", "solve")
_FAMILIES = (
    "distribution",
    "coupling",
    "path",
    "prediction",
    "network",
    "reward",
    "modality",
    "cost",
    "sampling.solver",
    "finetuning.method",
    "finetuning.adapter",
)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for first (PEP 562)."""
    if name in _API:
        return getattr(import_module("flowport.api"), name)
    if name[:1].isupper():
        for family in _FAMILIES:
            module = import_module(f"flowport.{family}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'flowport' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {name for family in _FAMILIES for name in import_module(f"flowport.{family}").__all__}
    return sorted({*globals(), *_API, *names})
