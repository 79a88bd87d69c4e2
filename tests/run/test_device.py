"""Commands work where their run was trained, unless device= says otherwise."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError
from flowport.run import base_run
from flowport.run.base_run import base_of, reaching
from flowport.run.build import Run
from flowport.run.device import accelerator_of, asked, device_of, places, present
from flowport.run.evaluate import evaluate
from flowport.run.finetune import tuned_config
from flowport.run.reflow import _config
from flowport.run.run_folder import RunFolder, read_json
from flowport.run.train import _fit, build_trainer, train
from flowport.run.trainer_options import check_trainer
from flowport.training.callback.checkpointing import Checkpointing
from tests import runs

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CPU, GPU, AUTO = (OmegaConf.create({"accelerator": name}) for name in ("cpu", "gpu", "auto"))
NOTHING = OmegaConf.create({"device": None})


def said(word: str) -> DictConfig:
    return OmegaConf.create({"device": word})


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "H100")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def composed(name: str, *words: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(runs.ROOT / "configs"), version_base="1.3"):
        return compose(name, list(words))


@pytest.mark.usefixtures("two_gpus")
def test_a_run_is_measured_where_it_was_trained_unless_device_says_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    assert device_of(CPU, NOTHING) == torch.device("cpu"), "a GPU beside it changes nothing"
    with caplog.at_level(logging.INFO):
        assert device_of(GPU, NOTHING) == device_of(AUTO, NOTHING) == torch.device("cuda")
    assert caplog.messages == ["on H100 in full float32, without TF32"] * 2
    assert device_of(GPU, said("cpu")) == torch.device("cpu")
    assert device_of(CPU, said("cuda:1")) == device_of(OmegaConf.create({"accelerator": "cuda:1"}), NOTHING)
    assert device_of(CPU, said("cuda:1")) == torch.device("cuda:1")
    assert device_of(CPU, said("auto")) == torch.device("cuda")
    assert accelerator_of(GPU, NOTHING) == "gpu", "the run's own word is kept"


@pytest.mark.usefixtures("no_gpu")
def test_without_cuda_a_run_of_a_gpu_is_measured_on_the_cpu_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert device_of(GPU, NOTHING) == torch.device("cpu")
    assert len(caplog.messages) == 1 and "trainer.accelerator=gpu" in caplog.text
    caplog.clear()
    for trainer, word in ((AUTO, None), (CPU, None), (GPU, "cpu"), (GPU, "auto"), (OmegaConf.create({}), None)):
        assert device_of(trainer, OmegaConf.create({"device": word})) == torch.device("cpu")
    assert not caplog.messages


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "tpu", "", 1, "CPU"])
def test_an_unknown_device_is_refused_in_one_sentence(word: object) -> None:
    with pytest.raises(FlowportError, match=r"^device=.* is unknown: use device=auto, cpu, cuda, cuda:1 or mps$"):
        asked(OmegaConf.create({"device": word}))


@pytest.mark.parametrize("word", ["cuda", "cuda:0", "mps"])
@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_there_is_refused_in_one_sentence(word: str) -> None:
    with pytest.raises(FlowportError, match=rf"^device={word} is not on this machine, which has cpu$"):
        device_of(GPU, said(word))


@pytest.mark.usefixtures("two_gpus")
def test_a_numbered_device_is_one_that_there_is() -> None:
    assert present("cuda:1") and not present("cuda:2") and not present("tpu")
    assert places(OmegaConf.create({"accelerator": "cuda:1"})) == {"accelerator": "cuda", "devices": [1]}
    assert places(GPU) == places(CPU) == places(OmegaConf.create({})) == {}
    for refused in (lambda: asked(said("cuda:2")), lambda: places(OmegaConf.create({"accelerator": "cuda:2"}))):
        with pytest.raises(FlowportError, match="cuda:2 is not on this machine, which has cpu, cuda:0, cuda:1"):
            refused()


def test_what_mps_lacks_is_said_in_one_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of(CPU, said("mps")) == torch.device("mps")
    config = runs.configured("trainer.accelerator=mps")
    check_trainer(config.trainer)
    assert places(config.trainer) == {}
    assert len(caplog.messages) == 2 and all("float64" in line and "kernels" in line for line in caplog.messages)


def test_the_commands_refuse_a_device_before_they_read_data(capfd: object, trained: Path) -> None:
    for script in ("evaluate.py", "translate.py", "likelihood.py", "reflow.py"):
        assert "device=moon is unknown" in runs.here(capfd, script, f"run={trained}", "device=moon").sentence
    words = (f"run={trained}", "reward=brightness", "device=moon")
    assert "device=moon is unknown" in runs.here(capfd, "finetune.py", *words).sentence


@pytest.mark.usefixtures("no_gpu")
def test_evaluate_takes_the_device_of_the_run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("flowport.run.evaluate.measure", lambda run, out, device, *rest: seen.append(device) or {})
    evaluate(RunFolder(trained), composed("evaluate", f"run={trained}"), RunFolder(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "H100")
    evaluate(RunFolder(trained), composed("evaluate", f"run={trained}"), RunFolder(tmp_path))
    evaluate(RunFolder(trained), composed("evaluate", f"run={trained}", "device=cuda"), RunFolder(tmp_path))
    assert seen == [torch.device("cpu"), torch.device("cpu"), torch.device("cuda")]


@pytest.fixture(scope="module")
def of_a_gpu(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose config says that a GPU trained it."""
    place = tmp_path_factory.mktemp("gpu") / "run"
    shutil.copytree(trained, place)
    config = OmegaConf.load(place / ".hydra" / "config.yaml")
    config.trainer.accelerator, config.trainer.precision = "gpu", "bf16-mixed"
    OmegaConf.save(config, place / ".hydra" / "config.yaml")
    return RunFolder(place)


@pytest.mark.usefixtures("two_gpus")
def test_finetune_and_reflow_train_where_their_run_was_trained(of_a_gpu: RunFolder, trained: Path) -> None:
    tuning = ("reward=brightness", "method=path_weighted_adjoint")  # the default, auto, would probe the base

    def tuned(folder: RunFolder, *words: str) -> tuple[str, str]:
        trainer = tuned_config(folder, composed("finetune", *tuning, *words)).trainer
        check_trainer(trainer)
        return trainer.accelerator, trainer.precision

    assert tuned(RunFolder(trained)) == ("cpu", "32-true")
    assert tuned(of_a_gpu) == ("gpu", "32-true")
    assert tuned(of_a_gpu, "trainer=cpu") == ("cpu", "32-true")
    assert tuned(of_a_gpu, "device=cpu") == ("cpu", "32-true")
    assert tuned(RunFolder(trained), "trainer=gpu") == ("gpu", "bf16-mixed")
    assert tuned(RunFolder(trained), "device=cuda:1") == ("cuda:1", "32-true")

    def again(folder: RunFolder, *words: str) -> str:
        return _config(folder, composed("reflow", *words), folder).trainer.accelerator

    assert again(of_a_gpu) == "gpu" and again(of_a_gpu, "device=cpu") == "cpu"
    assert again(RunFolder(trained)) == "cpu" and again(RunFolder(trained), "device=cuda") == "cuda"


@pytest.mark.usefixtures("no_gpu")
def test_finetune_and_reflow_fall_back_to_the_cpu(of_a_gpu: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    tuning = ("reward=brightness", "method=path_weighted_adjoint")  # the default, auto, would probe the base
    assert tuned_config(of_a_gpu, composed("finetune", *tuning)).trainer.accelerator == "cpu"
    assert len(caplog.messages) == 1
    assert tuned_config(of_a_gpu, composed("finetune", *tuning, "trainer=gpu")).trainer.accelerator == "gpu"
    assert _config(of_a_gpu, composed("reflow"), of_a_gpu).trainer.accelerator == "cpu"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("words", "reach"),
    [
        ([], []),
        (["trainer.max_steps=7", "trainer.gradient_clip_val=1"], []),
        (["trainer=gpu"], ["trainer.accelerator=gpu", "trainer.precision=bf16-mixed"]),
        (
            ["trainer=gpu", "trainer.tf32=false"],
            [*["trainer.accelerator=gpu", "trainer.precision=bf16-mixed"], "+trainer.tf32=false"],
        ),
        (["trainer.accelerator=gpu"], ["trainer.accelerator=gpu"]),
        (["device=cuda:1"], ["trainer.accelerator=cuda:1"]),
        (["capture=false"], ["capture=false"]),
        (["device=cpu", "+trainer.deterministic=true"], ["+trainer.deterministic=true"]),
    ],
)
def test_how_the_command_computes_reaches_the_base(
    words: list[str], reach: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("finetune", "experiment=finetune_mixture", *words)
    GlobalHydra.instance().clear()
    trained_with: list[list[str]] = []
    monkeypatch.setattr(base_run, "_train", lambda folder, words: trained_with.append(words))
    monkeypatch.setattr(base_run, "BASES", tmp_path)
    with initialize_config_dir(str(runs.ROOT / "configs"), version_base="1.3"):
        folder = base_of(config)
        plain = compose("train", [f"experiment={config.base}"]).trainer
        trainer = compose("train", trained_with[0]).trainer
        assert reaching(config, plain) == reach
    assert trained_with == [[f"experiment={config.base}", *reach]]
    assert trainer.max_steps == plain.max_steps and trainer.get("gradient_clip_val") is None
    check_trainer(trainer)
    if "trainer=gpu" in words:
        assert (trainer.accelerator, trainer.precision) == ("gpu", "bf16-mixed")
        bare = composed("finetune", "experiment=finetune_mixture")
        with initialize_config_dir(str(runs.ROOT / "configs"), version_base="1.3"):
            assert base_of(bare).path != folder.path, "another base"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16", 16])
def test_a_moving_average_in_half_precision_is_refused_before_anything_is_built(precision: object) -> None:
    config = runs.configured(f"trainer.precision={precision}")
    with pytest.raises(FlowportError, match=rf"^trainer.precision={precision} would keep the moving average") as caught:
        check_trainer(config.trainer)
    assert str(caught.value).endswith("16-mixed") and ("bf16-mixed" in str(caught.value)) == ("bf" in str(precision))
    for fine in ("32-true", "32", "16-mixed", "bf16-mixed"):
        check_trainer(runs.configured(f"trainer.precision='{fine}'").trainer)
    with pytest.raises(FlowportError, match=r"trainer.precision=64-true is not supported: choose one of 32-true"):
        check_trainer(runs.configured("trainer.precision=64-true").trainer)


def test_lightning_gets_no_option_of_flowports_own(tmp_path: Path) -> None:
    config = runs.configured("+trainer.tf32=false")
    check_trainer(config.trainer)
    trainer = build_trainer(config, RunFolder(tmp_path), [])
    assert trainer.strategy.root_device.type == "cpu"
    with pytest.raises(FlowportError, match=r"trainer.tf32=1 is of the wrong kind: trainer.tf32 must be true or false"):
        check_trainer(runs.configured("+trainer.tf32=1").trainer)


@pytest.mark.parametrize(
    ("device", "words", "precision"),
    [
        ("cuda", [], ("high", True)),
        ("cuda", ["+trainer.tf32=false"], ("highest", False)),
        ("cpu", [], ("highest", False)),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_training_on_cuda_rounds_to_tf32_and_says_it(
    device: str, words: list[str], precision: tuple[str, bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def fit(*args: object, **options: object) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    trainer = mock.Mock(spec=lightning.Trainer, fit=fit, strategy=SimpleNamespace(root_device=torch.device(device)))
    run = mock.Mock(spec=Run, config=runs.configured(*words), module=None, data=None)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with caplog.at_level(logging.INFO):
        _fit(trainer, run, Checkpointing(tmp_path / "last.ckpt", every=1), False)
    assert seen == [precision]
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    said = [line for line in caplog.messages if "TF32" in line]
    assert len(said) == (precision[0] == "high") and all(
        "H100" in line and "trainer.tf32=false" in line for line in said
    )


@pytest.mark.gpu
@NEEDS_CUDA
def test_lightning_trains_on_a_numbered_device(tmp_path: Path) -> None:
    trainer = build_trainer(runs.configured("trainer.accelerator=cuda:0"), RunFolder(tmp_path), [])
    assert trainer.strategy.root_device == torch.device("cuda:0")


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=eight_gaussians_to_moons", "metric=[wasserstein,mmd,straightness]"],
        ["experiment=gaussian_to_mixture", "solver=euler_maruyama", "volatility=memoryless"],
        ["experiment=digits_to_mnist", "metric=[sliced_wasserstein]"],
        ["experiment=solids_ellipsoid_to_torus", "metric=[cloud_distance]"],
        ["experiment=timbre_flute_to_brass", "metric=[sliced_wasserstein]"],
    ],
)
def test_cpu_and_cuda_measure_the_same(words: list[str], tmp_path: Path) -> None:
    small = ["solver=heun", "grid.steps=6", "trainer.max_steps=5", "evaluation_items=32"]
    folder = RunFolder(tmp_path / "run")
    train(composed("train", words[0], *small, *words[1:], runs.QUIET), folder)
    found = {}
    for device in ("cpu", "cuda"):
        out = RunFolder(tmp_path / device)
        out.create()
        evaluate(folder, composed("evaluate", f"run={folder}", f"device={device}"), out)
        found[device] = runs.measured(read_json(out.metrics))
    assert found["cpu"].keys() == found["cuda"].keys()
    for name, value in found["cpu"].items():
        if isinstance(value, float):
            assert found["cuda"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
