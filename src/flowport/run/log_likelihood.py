"""Log-likelihood of held-out points under a trained run."""

import math
import time
from typing import Any

from omegaconf import DictConfig

from flowport.distribution.base import Density, Stored
from flowport.run.build import make
from flowport.run.config_checks import check_values
from flowport.run.device import device_of
from flowport.run.restore import record, restore
from flowport.run.run_folder import RunFolder
from flowport.sampling.likelihood import Likelihood
from flowport.tensors import float32_products, standard_error


@float32_products(tf32=False)
def log_likelihood(folder: RunFolder, overrides: DictConfig, out: RunFolder) -> dict[str, Any]:
    """Log-likelihood of held-out points of the target under a trained run without guidance; writes metrics.json.

    test/nll: −log p in nats a point, mean and standard error over items; for data of finitely many levels of the raw
    items as the data set holds them (resized images: the resized bytes), an upper bound by uniform dequantisation
    (Theis, van den Oord & Bethge 2016, arXiv:1511.01844), and test/bits_per_dim = nll/(d log 2). test/nll_floor: the
    mean of the target's own −log p, where it has a density. Points, noise and probes are those of the seed, whatever
    the solver.

    Args:
        folder: The run's, which is only read.
        overrides: See ``restore``; ``divergence``: how the divergence of the field is computed.
        out: Where the numbers go.
    """
    check_values(overrides)
    run = restore(folder, overrides)
    place = device_of(run.config.trainer, overrides)
    module, randomness = run.module.to(place), run.module.randomness.under("likelihood")
    model = Likelihood(
        module.ema, module.source.to(place), run.sampler.solver, run.sampler.grid, make(overrides.divergence)
    )
    part = run.data.placed(place).target.split("test")
    points, volume = part.every(run.config.evaluation_items, randomness.under("target")), None
    if isinstance(part, Stored):
        assert points.id is not None
        raw, _ = part.taken(part.items_of_part()[points.id], None)
        x, volume = part.modality.dequantised(raw.to(place), randomness.generator("dequantisation"))
        points = points.with_x(x)
    began = time.perf_counter()
    found, evaluations = model.log_prob(points, randomness.generator("probes"))
    nats, share = -found.double() - (volume or 0.0), math.log(2) * points.x[0].numel()
    error = float(standard_error(nats))
    numbers = {"nll": float(nats.mean()), "nll_se": error}
    if volume is not None:
        numbers |= {"bits_per_dim": float(nats.mean()) / share, "bits_per_dim_se": error / share}
    if isinstance(part, Density):
        numbers["nll_floor"] = -float(part.log_prob(points.x).mean())
    facts = record(folder) | {f"test/{name}": value for name, value in numbers.items()}
    facts |= {"points": len(nats), "nfe": evaluations, "seconds": round(time.perf_counter() - began, 2)}
    out.write_metrics(facts)
    return facts
