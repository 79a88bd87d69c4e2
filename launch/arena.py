"""Tune in a world where the true tilt is known, sweep methods over worlds, draw what a sweep found.

python launch/arena.py problem=hard method=path_weighted_adjoint strength=1
python launch/arena.py sweep=arena
python launch/arena.py draw=outputs/arena/all
"""

from pathlib import Path

from flowport.run.cli import composed, launch

CONFIGS = Path(__file__).parents[1] / "configs"


def arena(config, folder):  # noqa: ANN201  (Hydra's task)
    """One method in one world, into metrics.json of its folder (one that finished with the same config
    is left alone), or the drawing of a sweep."""
    import json

    import torch
    from omegaconf import OmegaConf

    from flowport.problem.arena import duel
    from flowport.run.config_checks import check_kind, check_values
    from flowport.run.experiment import make, write_json

    check_values(config)
    check_kind("strength", config.strength, float)
    check_kind("steps_per_rollout", config.steps_per_rollout, int | None, 1)
    torch.set_num_threads(config.threads)
    if config.draw is not None:
        return drawn(Path(config.draw))
    result, asked, words = folder / "metrics.json", folder / "contest.yaml", OmegaConf.to_yaml(config, resolve=True)
    if not (result.is_file() and asked.is_file() and asked.read_text() == words):
        parts = ("problem", "method", "adapter", "optimizer", "scheduler", "trainer", "base")
        plain = ("strength", "seed", "ema_decay", "fresh", "steps_per_rollout", "points", "pretraining")
        result.unlink(missing_ok=True)  # of another contest in the same folder
        write_json(result, duel(**{p: make(config[p]) for p in parts}, **{p: config[p] for p in plain}))
        asked.write_text(words)
    return json.loads(result.read_text())


def drawn(folder):  # noqa: ANN201
    """arena.png, arena.md and all.md in a sweep's folder."""
    from flowport.problem.arena import draw
    from flowport.problem.arena.frontier_plot import read
    from flowport.run.experiment import make

    names = sorted({entry.problem for entry in read(folder)})
    print(draw(folder, {name: make(composed("arena", [f"problem={name}"]).problem) for name in names}))


if __name__ == "__main__":
    launch(arena, CONFIGS, "arena")
