"""Two processes that share the weights of one network (FSDP2) train as two that copy them."""

from pathlib import Path

import pytest
import torch

from tests import runs
from tests.run.test_processes import run_by_two

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """The folder of what two processes of ``tests.run.sharded`` left, and what each of them saw."""
    folder = tmp_path_factory.mktemp("sharded")
    run_by_two("tests.run.sharded", folder)
    mine, other = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return folder, mine, other


def test_each_process_holds_half_of_the_weights_and_both_know_the_same_whole(saw: tuple[Path, dict, dict]) -> None:
    _, mine, other = saw
    assert mine["share"][:3] == other["share"][:3] == [0.5] * 3
    assert all(runs.equal(a, b) for a, b in zip(mine["weights"], other["weights"], strict=True))


def test_a_checkpoint_is_one_file_with_all_weights_from_which_a_run_resumes(saw: tuple[Path, dict, dict]) -> None:
    folder, mine, _ = saw
    assert runs.equal(runs.weights(folder / "whole"), mine["weights"][0])
    assert runs.equal(runs.weights(folder / "broken"), runs.weights(folder / "whole"))
    assert not runs.equal(mine["weights"][1], mine["weights"][0]), "30 steps are more than 20"


def test_split_weights_and_their_average_are_those_of_copies(saw: tuple[Path, dict, dict]) -> None:
    folder, mine, other = saw
    split, copied = runs.weights(folder / "whole"), runs.weights(folder / "copied")
    assert split.keys() == copied.keys()
    for name, value in copied.items():
        torch.testing.assert_close(split[name], value, rtol=1e-4, atol=1e-6)
    assert mine["validated"][-3:] == pytest.approx(mine["validated"][:3], rel=1e-4)
    assert mine["share"][-1] == 1 and other["numbers"] == {} and "test/sliced_w2" in mine["numbers"]


def test_every_network_has_the_outputs_and_gradients_of_whole_weights(saw: tuple[Path, dict, dict]) -> None:
    for name, (outputs, gradients) in saw[1]["networks"].items():
        assert outputs < 1e-6 and gradients < 1e-5, name
