"""A stranger's run folder runs no code, through any command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from flowport.errors import FlowportError
from flowport.run.run_folder import RunFolder, built_by, write_json
from tests import runs

EVIL = [
    "torch.hub.load",
    "torch.load",
    "torch.utils.collect_env.run",
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "subprocess.Popen",
    "idlelib.idle",
    "pip.__main__",
    "pip.__main__.main",
    "antigravity",
    "antigravity.fly",
    "torch.utils.bottleneck.__main__.main",
    "this.s",
    "torch.nn.functional.relu",
    "torch.nn.Module.__init_subclass__",
    "flowport.run.run_folder.Path",
    "flowport.run.train.train",
    "lightning.Trainer.fit",
    "",
    ".",
    "os",
    "torch.nn..Linear",
    "${kind}",
]


def folder_with(tmp_path: Path, config: Any) -> Path:
    (tmp_path / ".hydra").mkdir(parents=True, exist_ok=True)
    write_json(RunFolder(tmp_path).stamp, built_by())
    (tmp_path / ".hydra" / "config.yaml").write_text(config if isinstance(config, str) else OmegaConf.to_yaml(config))
    return tmp_path


@pytest.mark.parametrize("target", EVIL)
def test_only_classes_of_known_bases_are_built(target: str, tmp_path: Path) -> None:
    node = {"_target_": target, "_args_": ["x"]}
    fine = {"_target_": "torch.nn.Linear"}
    for place in (
        {"a": node},
        {"a": [fine, [node]]},
        {"a": {**fine, "_args_": [{"b": node}]}},
        {"a": fine, "b": {"c": {**fine, "deep": node}}},
        {"hydra": {"callbacks": {"me": node}}},
    ):
        with pytest.raises(FlowportError, match=r"wants to build|has no class name"):
            RunFolder(folder_with(tmp_path, place)).read_config()


def test_a_module_that_would_run_on_import_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('marker').touch()\n"
        "import torch\nclass Net(torch.nn.Module): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = folder_with(tmp_path / "run", {"network": {"_target_": "stranger.Net"}})
    with pytest.raises(FlowportError, match="FLOWPORT_TRUST to the names"):
        RunFolder(folder).read_config()
    assert not (tmp_path / "marker").exists()
    assert RunFolder(folder, trust=True).read_config().network._target_ == "stranger.Net"
    monkeypatch.setenv("FLOWPORT_TRUST", "other, stranger")
    assert RunFolder(folder).read_config().network._target_ == "stranger.Net"
    assert not (tmp_path / "marker").exists(), "a check imports nothing"


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${now:%Y}",
        "x ${oc.env:HOME} y",
        "${oc.decode:${a}}",
        "${eval:1}",
        "${hydra:runtime.cwd}",
        "${ oc.env:HOME}",
    ],
)
def test_resolvers_are_refused_and_plain_references_are_not(value: str, tmp_path: Path) -> None:
    for place in ({"b": value}, {"b": [{"c": value}]}):
        with pytest.raises(FlowportError, match=r"asks for a resolver at b"):
            RunFolder(folder_with(tmp_path, {"a": 1, **place})).read_config()
    assert RunFolder(folder_with(tmp_path, {"a": 1, "b": "${a}"})).read_config().b == 1


def test_yaml_tags_and_other_yaml_are_refused(tmp_path: Path) -> None:
    for text in ("a: !!python/object/apply:os.system ['touch marker']", "[1, 2]", "a: [", "a: {_target_: [os.system]}"):
        with pytest.raises(FlowportError):
            RunFolder(folder_with(tmp_path, text)).read_config()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    marker = tmp_path / "marker"
    for held in (
        Touch(marker),
        {"state_dict": {"w": Touch(marker)}},
        {"state_dict": {"w": torch.zeros(1)}, "x": Touch(marker)},
    ):
        for zipped in (True, False):
            torch.save(held, tmp_path / "checkpoints" / "last.ckpt", _use_new_zipfile_serialization=zipped)
            with pytest.raises(FlowportError, match="damaged or holds code"):
                RunFolder(tmp_path).read_checkpoint()
    assert not marker.exists()


def test_no_command_runs_a_stranger_s_code(trained: Path, tmp_path: Path, capfd: Any) -> None:
    marker, copy = tmp_path / "marker", tmp_path / "copy"
    shutil.copytree(trained, copy)
    config, checkpoint = copy / ".hydra" / "config.yaml", copy / "checkpoints" / "last.ckpt"
    text, whole = config.read_text(), checkpoint.read_bytes()

    def refused(words: str) -> None:
        for script in ("train.py", "evaluate.py", "translate.py"):
            out = [] if script == "train.py" else [f"hydra.run.dir={tmp_path}/out"]
            assert words in runs.here(capfd, script, f"run={copy}", *out).sentence
        assert not marker.exists()

    for target in ("os.system", "torch.utils.collect_env.run"):
        config.write_text(text + f"\nextra:\n  deep: [{{_target_: {target}, _args_: ['touch {marker}']}}]\n")
        refused(f"wants to build {target} at extra.deep[0]")
    config.write_text(text + f"\nhydra:\n  callbacks:\n    me: {{_target_: os.system, command: 'touch {marker}'}}\n")
    refused("wants to build os.system at hydra.callbacks.me")
    config.write_text(text.replace("seed: 0", "seed: ${oc.env:SEED}"))
    refused("asks for a resolver at ")
    config.write_text(text)
    held = torch.load(checkpoint, weights_only=True)
    torch.save({**held, "callbacks": {"x": Touch(marker)}}, checkpoint)
    refused("damaged or holds code")
    checkpoint.write_bytes(whole)
    assert runs.here(capfd, "evaluate.py", f"run={copy}", f"hydra.run.dir={tmp_path}/out").code == 0


def test_a_run_of_another_layout_is_refused_by_both_versions(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "older"))
    stamp = folder / "built_by.json"
    built = json.loads(stamp.read_text())
    stamp.write_text(json.dumps(built | {"layout": 1, "flowport": "0.0.7"}))
    with pytest.raises(FlowportError, match=r"by flowport 0\.0\.7, whose run folders flowport 0\.2\.0 does not read"):
        RunFolder(folder).read_config()
    stamp.unlink()
    with pytest.raises(FlowportError, match=r"written by flowport before 0\.2\.0"):
        RunFolder(folder).read_config()
    stamp.write_text("{")
    with pytest.raises(FlowportError, match=r"built_by.json is damaged"):
        RunFolder(folder).read_config()


def test_a_folder_holds_its_own_config_and_no_other(trained: Path) -> None:
    folder = RunFolder(trained)
    config = folder.read_config()
    assert folder.holds(config)
    for key, value in (("seed", 5), ("seed", None), ("coupling.cost", None), ("scheduler", None)):
        other = config.copy()
        OmegaConf.update(other, key, value, merge=False)
        assert not folder.holds(other), key
