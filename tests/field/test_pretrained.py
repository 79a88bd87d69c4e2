"""A diffusion model of diffusers on disk is a field: by its own scheduler's algebra, at its own steps."""

import json
from functools import partial

import pytest
import torch

from flowport.errors import FlowportError
from flowport.field import PathTransformedField
from flowport.field.pretrained import PretrainedField, load
from flowport.finetuning.adapter import ControlAdapter
from flowport.finetuning.method import PathWeighted
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP
from flowport.path import LinearPath
from flowport.reward import Brightness
from flowport.run.reflow import carried
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import EulerMaruyama, Heun
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import MemorylessVolatility, ZeroVolatility
from flowport.types import Condition, ConditionShape, Pair, Sample

diffusers = pytest.importorskip("diffusers")
STEPS = torch.tensor([5, 200, 731])
KINDS = ["epsilon", "sample", "v_prediction"]


def unet():
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    return diffusers.UNet2DModel(8, 1, 1, block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4, **blocks)


def transformer():
    """Half of its channels are a learnt variance, as DiT-XL has it."""
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        out_channels=2,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
    )


@pytest.fixture(params=[("unet", unet), ("transformer", transformer)], ids=["unet", "transformer"])
def model(request):
    """(part of a pipeline, model): random weights, none of them zero."""
    name, make = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make().eval()
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return name, made


def points(seed=0):
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def condition_for(field):
    return Condition(label=torch.tensor([0, 4, 2])) if field.classes else Condition()


@pytest.mark.parametrize("kind", KINDS)
def test_end_points_and_score_are_those_of_direct_calls_at_the_discrete_steps(model, kind, tmp_path):
    name, own = model
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, clip_sample=False, thresholding=False)
    scheduler.set_timesteps(1000)
    own.save_pretrained(tmp_path / name), scheduler.save_pretrained(tmp_path / "scheduler")
    field = load(tmp_path)
    x, condition = points(), condition_for(field)
    labels = {"class_labels": condition.label} if field.classes else {}
    with torch.no_grad():
        raw = own(x, STEPS, **labels).sample[:, :1]
        t = 1 - STEPS.double() / 999
        noise, clean, _ = field.endpoints(x.double(), t, condition)
        score = field.score(x.double(), t, condition)
    for row, step in enumerate(STEPS.tolist()):
        wanted = scheduler.step(raw[row : row + 1], step, x[row : row + 1]).pred_original_sample
        a = scheduler.alphas_cumprod[step]
        eps = (x[row : row + 1] - a.sqrt() * wanted) / (1 - a).sqrt()
        scale = float(1 + wanted.abs().max())
        torch.testing.assert_close(clean[row : row + 1].float() / scale, wanted / scale, rtol=0, atol=1e-5)
        torch.testing.assert_close(noise[row : row + 1].float() / scale, eps / scale, rtol=0, atol=1e-4)
        pulled = -(1 - a).sqrt() * score[row : row + 1].float()
        torch.testing.assert_close(pulled / scale, eps / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_any_of_our_samplers_serves_and_any_path(model, kind):
    field = PretrainedField(model[1], diffusers.DDPMScheduler(prediction_type=kind))
    start, label = Sample(points()), condition_for(field).label
    ends = []
    for solver, volatility in ((Heun(), ZeroVolatility()), (EulerMaruyama(), MemorylessVolatility())):
        for flow in (field, PathTransformedField(field, LinearPath())):
            run = Translator(flow, solver, UniformGrid(steps=4), volatility).forward(
                start, torch.Generator().manual_seed(1), label
            )
            ends.append(run.end)
            assert run.end.shape == (3, 1, 8, 8) and bool(run.end.isfinite().all())
    assert not torch.allclose(ends[0], ends[2])


def test_one_step_of_ddim_is_theirs(model):
    """x_k' = √ᾱ_k' x̂1 + √(1 − ᾱ_k') ε̂ from step 800 to 780."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(50)
    field, x = PretrainedField(model[1], scheduler), points()
    condition = condition_for(field)
    labels = {"class_labels": condition.label} if field.classes else {}
    with torch.no_grad():
        raw = model[1](x, torch.full((3,), 800), **labels).sample[:, :1]
        theirs = scheduler.step(raw, 800, x).prev_sample
        noise, clean, _ = field.endpoints(x.double(), torch.full((3,), 1 - 800 / 999).double(), condition)
    later = torch.tensor([1 - 780 / 999]).double()
    ours = field.path.beta(later) * clean + field.path.alpha(later) * noise
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)


def test_what_is_no_diffusion_is_refused(tmp_path):
    with pytest.raises(FlowportError, match="FlowMatchEulerDiscreteScheduler"):
        PretrainedField(unet(), diffusers.FlowMatchEulerDiscreteScheduler())
    other = diffusers.DDPMScheduler()
    other.register_to_config(prediction_type="flow")
    with pytest.raises(FlowportError, match="prediction_type=flow"):
        PretrainedField(unet(), other)
    with pytest.raises(FlowportError, match="no diffusion pipeline"):
        load(tmp_path)
    for part in ("unet", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(FlowportError, match="UNet2DConditionModel"):
        load(tmp_path)


def test_it_is_a_teacher_of_reflow_and_the_base_of_a_tuning():
    field = PretrainedField(unet(), diffusers.DDPMScheduler())
    pair = Pair(Sample(points(2)), Sample(points(3)))
    made = carried(Translator(field, Heun(), UniformGrid(4), ZeroVolatility()), pair, torch.Generator())
    assert torch.equal(made.source.x, pair.source.x) and not torch.allclose(made.target.x, pair.source.x)
    tilted = TiltedField(field, ControlAdapter(field, (1, 8, 8), ConditionShape(), partial(MLP, width=8, depth=1)))
    objective, generator = PathWeighted(UniformGrid(4), late=0.4, batch=8), torch.Generator().manual_seed(0)
    rollout, _ = objective.collect(tilted, Brightness(), 1.0, pair, generator)
    objective.loss(tilted, [rollout], generator).mean.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in tilted.adapter.parameters())
    assert all(p.grad is None and not p.requires_grad for p in field.parameters())
