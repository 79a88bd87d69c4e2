"""Draw what a run's loss weights over the log signal-to-noise ratio, among the weightings of the literature.

python launch/plot_weighting.py path=trigonometric time_sampler@objective.time_sampler=logit_normal
"""

import argparse
from pathlib import Path

from flowport.run.cli import report_errors

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    """The run of these words beside every configs/weighting that states a w(λ), into one picture."""
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("words", nargs="*", help="a run as train.py takes it; default: the linear path, uniform times")
    told.add_argument("--out", type=Path, default=Path("outputs/weightings.png"), help="where the picture goes")
    given = told.parse_args()
    with report_errors():
        from hydra import compose, initialize_config_dir

        from flowport.evaluation import weighting_plot
        from flowport.run import experiment

        with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
            run = compose("train", ["experiment=none", *given.words])
            names = sorted(path.stem for path in (CONFIGS / "weighting").glob("*.yaml"))
            members = {name: compose(f"weighting/{name}").weighting for name in names}
        flow = experiment.flow_of(run)[0]
        curves = {"this run": weighting_plot.measured(flow.objective, flow.field)}
        curves |= weighting_plot.stated({name: experiment.make(node) for name, node in members.items()})
        given.out.parent.mkdir(parents=True, exist_ok=True)
        weighting_plot.draw(curves, given.out)
        print(given.out)


if __name__ == "__main__":
    main()
