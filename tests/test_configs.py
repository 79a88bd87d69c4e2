"""Every yaml composes, instantiates, and belongs to the family whose name its folder bears."""

import functools
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import flowport
from flowport.errors import member_name
from flowport.modality import ComplexSTFT, LogMel

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(p.relative_to(CONFIGS).with_suffix("") for p in CONFIGS.glob("*/*.yaml"))
# Groups that hold parts of other libraries, or whole sentences.
FOREIGN = {"optimizer": "torch.optim", "trainer": "lightning", "callback": "lightning.pytorch.callbacks"}
PRESETS = {
    "cost": {"cepstral", "hog", "hog_pixel", "spectral_pixel"},
    "coupling": {"aligned_sliced", "exact_hog", "exact_spectral"},
    "data": {"resident", "streaming"},
    "distribution": {"brass", "flute", "mnist_cloud", "silhouettes_cloud", "voice_high", "voice_low"},
    "metric": {"cloud_distance_emd"},
    "method": {"adjoint_matching_paper", "best_of", "flow_grpo", "path_weighted_adjoint", "weighted_adjoint"},
    "objective": {"score_matching"},
    "problem": {p.name for p in FILES if p.parent.name == "problem"},
    "solver": {"euler_maruyama_sine", "stochastic_heun_sine", "twisted"},
    "weighting": {"min_snr", "sd3_cosmap", "sd3_logit_normal", "sd3_mode"},
}
"""Several settings of one class, whose yaml therefore cannot bear its name."""
SENTENCES = {"experiment", "sweep"}
LISTS = {"metric", "logger", "callback"}
"""Groups of which a run takes several."""


def composed(*words: str, primary: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(primary, list(words))


def sentence(experiment: str) -> str:
    """The primary config that an experiment changes: finetune upon a base, reflow upon a base, or train."""
    return "finetune" if experiment.startswith("finetune_") else "reflow" if experiment.endswith("_reflow") else "train"


def experiments(primary: str) -> list[str]:
    """Names of the experiments that tune a flow, straighten one, or train one."""
    return [p.name for p in FILES if p.parent.name == "experiment" and sentence(p.name) == primary]


def parts() -> list[Any]:
    return [pytest.param(p.parent.name, p.name, id=str(p)) for p in FILES if p.parent.name not in SENTENCES]


@pytest.mark.parametrize(("group", "name"), parts())
def test_every_part_composes_and_is_a_class_of_its_family(group: str, name: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        whole = "override " in (CONFIGS / group / f"{name}.yaml").read_text()  # speaks of the sentence around it
        config = compose("train", [f"{group}={name}"]) if whole else compose(f"{group}/{name}")
    node = config[group][name] if group in LISTS else config[group]
    target = node["_target_"]
    if group in FOREIGN:
        assert target.startswith(FOREIGN[group] + ".")
    else:
        assert group in target.split(".")[1:-1], f"configs/{group}/{name}.yaml builds {target}: not of {group}"
        if name not in PRESETS.get(group, ()):
            assert name == member_name(target.rpartition(".")[2], group)
    if OmegaConf.missing_keys(node):  # what only the user can say, such as a file
        return
    if name in ("flute", "brass"):
        node.train = 20  # 2000 notes take seconds to play
    if target == "flowport.distribution.Spoken":
        pytest.importorskip("espeakng_loader")
    made = instantiate(node)
    made = made.func if isinstance(made, functools.partial) else type(made)
    assert made.__name__ == target.rpartition(".")[2]


def test_every_group_mirrors_a_family() -> None:
    families = {part for p in pkgutil.walk_packages(flowport.__path__, "flowport.") for part in p.name.split(".")}
    groups = {p.parent.name for p in FILES} - SENTENCES - set(FOREIGN)
    assert groups <= families, f"configs without a family: {groups - families}"


@pytest.mark.parametrize("name", experiments("finetune") + experiments("reflow"))
def test_every_tuning_and_reflow_composes_upon_an_experiment(name: str) -> None:
    config = composed(f"experiment={name}", primary=sentence(name))
    words = {"finetune": "reward=brightness", "reflow": "metric=[straightness]"}
    plain = composed(words[sentence(name)], primary=sentence(name))
    assert set(config) - {"prediction", "adapter"} == set(plain)  # null: the path's own, and the method's own
    assert config.base in experiments("train")
    assert not OmegaConf.missing_keys(config)


@pytest.mark.parametrize("name", experiments("train"))
def test_every_experiment_composes_without_adding_keys(name: str) -> None:
    config = composed(f"experiment={name}")
    plain = composed("experiment=none")
    assert set(config) - {"prediction"} == set(plain)  # null is the path's own
    assert OmegaConf.missing_keys(config) <= {"source.path", "target.path"}, "only the user knows his folders"


def test_recordings_choose_their_modality_on_the_command_line() -> None:
    config = composed("experiment=spectrograms", "modality@target.modality=complex_stft", "target.modality.hop=64")
    source, target = (instantiate(config[side].modality) for side in ("source", "target"))
    assert isinstance(source, LogMel) and source.unmeasured() == ("mean", "std")
    assert isinstance(target, ComplexSTFT) and target.unmeasured() == ("scale",) and target.hop == 64


LAUNCHERS = {"arena": "arena", "reward": "finetune", "samplers": "evaluate", "guidance": "evaluate"}
"""By the first word of a sweep; train for all others."""


@pytest.mark.parametrize("name", [p.name for p in FILES if p.parent.name == "sweep"])
def test_every_sweep_turns_multirun_on_and_names_what_exists(name: str) -> None:
    sentence = next(
        (launcher for start, launcher in LAUNCHERS.items() if name.startswith(start)),
        "train",
    )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(sentence, [f"sweep={name}"], return_hydra_config=True)
        assert config.hydra.mode.name == "MULTIRUN"
        overrides = {key: str(values).split(",") for key, values in config.hydra.sweeper.params.items()}
        for k in range(max(len(values) for values in overrides.values())):
            words = [f"{key}={values[k % len(values)]}" for key, values in overrides.items()]
            job = compose(sentence, [*words, f"sweep={name}"])
            parts = [job[key] for key in job if (CONFIGS / str(key)).is_dir() and str(key) not in SENTENCES]
            assert not any(isinstance(part, str) for part in parts), "a choice that was written as a value"


@pytest.mark.parametrize("launcher", ["local", "slurm", "ray", "basic"])
def test_a_sweep_runs_under_every_launcher(launcher: str) -> None:
    words = [] if launcher == "local" else [f"hydra/launcher={launcher}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["sweep=plane", "jobs=3", *words], return_hydra_config=True)
    node = config.hydra.launcher
    assert launcher in node._target_.lower()
    at_once = {"local": "jobs", "slurm": "array_parallelism", "ray": "jobs"}
    assert launcher == "basic" or OmegaConf.select(node, at_once[launcher]) == 3
    assert config.hydra.sweeper._target_.endswith("FolderSweeper")


def test_no_sweep_says_where_it_runs() -> None:
    texts = {path.name: path.read_text() for path in (CONFIGS / "sweep").glob("*.yaml")}
    assert [name for name, text in texts.items() if "launcher" in text or "jobs:" in text] == []
