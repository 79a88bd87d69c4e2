"""On a GPU: the same run in bfloat16, resident on the device, without a hidden synchronisation in its step."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from flowport.run.run_folder import RunFolder

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["digits_to_mnist", "digits_to_mnist_bridge", "eight_gaussians_to_moons"])
def test_a_run_on_the_gpu(name: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"experiment={name}", "trainer=gpu", "trainer.max_steps=20", "evaluation_items=64"])
    numbers = instantiate(config.stage).run(config, RunFolder(tmp_path))
    assert numbers["train/steps"] == 20
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(v.dtype == torch.float32 for k, v in weights.items() if k.startswith("ema.") and v.is_floating_point())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_loss_does_not_wait_for_the_device() -> None:
    from flowport.coupling import IndependentCoupling
    from flowport.distribution import EightGaussians, Moons
    from flowport.training.compose import compose as join

    flow, data = join(EightGaussians().to("cuda"), Moons().to("cuda"), coupling=IndependentCoupling())
    flow.cuda()
    pair = data.train.at(0)
    flow.objective.loss(flow.field, pair, flow.randomness.generator("warm up", 0, "cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        flow.objective.loss(flow.field, pair, flow.randomness.generator("step", 0, "cuda")).mean.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
