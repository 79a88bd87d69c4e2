"""Tune in a world where the true tilt is known, sweep methods over worlds, draw what a sweep found.

python launch/arena.py world=hard objective=hybrid strength=1
python launch/arena.py sweep=arena
python launch/arena.py draw=outputs/arena/arena/<time>
"""

from pathlib import Path

from flowport.command import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def arena(config):  # noqa: ANN201  (Hydra's task)
    """One method in one world, into metrics.json of the folder that Hydra made for it; or the drawing of a sweep."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from flowport.arena import contest
    from flowport.experiment import make, write_json
    from flowport.report import table
    from flowport.values import check_values

    check_values(config)
    torch.set_num_threads(config.threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    parts = {name: make(config[name]) for name in ("world", "objective", "change", "optimizer", "scheduler", "trainer")}
    plain = {name: config[name] for name in ("strength", "seed", "ema_decay", "fresh", "points", "seen")}
    numbers = contest(**parts, **plain)
    write_json(folder / "metrics.json", numbers)
    print(table(numbers, title=str(folder)))
    return numbers["arena/kl_to_tilt"]


if __name__ == "__main__":
    launch(arena, CONFIGS, "arena")
