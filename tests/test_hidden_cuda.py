"""On a machine with CUDA the tests of the CPU keep to the CPU."""

import os
import subprocess
import sys

import lightning
import pytest
import torch

ASK = "import torch; print(torch.cuda.is_available())"


def test_a_test_without_the_mark_sees_no_cuda() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available() and torch.cuda.device_count() == 0
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"
    trainer = lightning.Trainer(accelerator="auto", logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device.type in ("cpu", "mps")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_test_with_the_mark_sees_it() -> None:
    assert torch.cuda.is_available()
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "True"
