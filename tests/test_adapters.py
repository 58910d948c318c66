"""diffusers' networks: the same updates as its own schedulers, in float64 to round-off."""

import json
from itertools import pairwise

import pytest
import torch

from scoresde.adapters.diffusers import from_diffusers
from scoresde.errors import CheckpointError, ConfigError, ScoreSDEError, ShapeError, ZeroSNRError
from scoresde.grid import from_times, leading, trailing
from scoresde.guidance import CFG
from scoresde.noise import Predrawn
from scoresde.sampling.run import sample
from scoresde.sde import DiscreteVPSDE, FlowSDE
from scoresde.solvers import DDIM, Ancestral

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def unet(seed=0, **settings):
    torch.manual_seed(seed)
    net = diffusers.UNet2DModel(**{**TINY, "out_channels": 3, **settings}).eval()
    return net.double().requires_grad_(False)


def state(batch=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64)


def exact_table(scheduler):
    """The scheduler with its table multiplied out in float64, as the adapter does it."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas, 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def run_theirs(net, scheduler, x, steps):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ten_steps_of_ddim_are_theirs(schedule, prediction):
    net = unet()
    settings = {"beta_schedule": schedule, "prediction_type": prediction, "clip_sample": False}
    scheduler = diffusers.DDIMScheduler(**settings)
    model = from_diffusers(net, scheduler)
    want = run_theirs(net, exact_table(scheduler), state(), 10)
    got = sample(model, DDIM(), leading(model.sde, 10), x=state())
    assert got.mean_nfe == 10
    assert torch.allclose(got.x, want, rtol=1e-11, atol=1e-11)


def test_one_step_is_theirs_in_float32_as_shipped():
    net = unet().float()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    model, x = from_diffusers(net, scheduler), state().float()
    grid = from_times(model.sde, [700, 600], clean=False)
    want = scheduler.step(net(x, 700).sample, 700, x).prev_sample
    assert torch.allclose(sample(model, DDIM(), grid, x=x).x, want, rtol=0, atol=2e-6)


def test_zero_terminal_snr():
    settings = {
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    net, scheduler = unet(), diffusers.DDIMScheduler(**settings)
    model = from_diffusers(net, scheduler)
    assert model.sde.zero_terminal_snr
    want = run_theirs(net, exact_table(scheduler), state(), 10)
    got = sample(model, DDIM(), trailing(model.sde, 10), x=state())
    assert torch.allclose(got.x, want, rtol=1e-11, atol=1e-11)
    eps = diffusers.DDIMScheduler(**{**settings, "prediction_type": "epsilon"})
    model = from_diffusers(net, eps)
    with pytest.raises(ZeroSNRError, match="predicts eps"):
        sample(model, DDIM(), trailing(model.sde, 10), x=state())


@pytest.mark.parametrize(
    "name",
    [
        "DDPM",
        "DDIM",
        "PNDM",
        "DPMSolverMultistep",
        "UniPCMultistep",
        "EulerDiscrete",
    ],
)
def test_every_scheduler_of_one_table_gives_one_process(name):
    kind = getattr(diffusers, f"{name}Scheduler")
    same = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    model = from_diffusers(unet(), kind(**same))
    want = from_diffusers(unet(), diffusers.DDPMScheduler())
    assert model.sde == want.sde
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    exact = DiscreteVPSDE.from_betas(betas)
    # betas are float32 there: 6e-8 each, and so is any log(sigma) made of them.
    assert abs(model.sde.log_sigma(0.0) - exact.log_sigma(0.0)) < 1e-7
    assert abs(model.sde.log_alpha(999.0) - exact.log_alpha(999.0)) < 1e-6


def test_a_product_that_was_shifted_is_taken_as_it_is():
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    sde = from_diffusers(unet(), scheduler).sde
    for i in (0, 500, 998):
        assert sde.at(float(i)).alpha ** 2 == pytest.approx(float(scheduler.alphas_cumprod[i]))


def test_flow_matching_euler_is_ddim_on_the_line():
    net, scheduler = unet(), diffusers.FlowMatchEulerDiscreteScheduler()
    model = from_diffusers(net, scheduler)
    assert model.sde == FlowSDE()
    # Their steps are rounded to float32; take the same sigmas, and hold the last one to zero.
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.double().tolist()
    grid = from_times(model.sde, sigmas[:-1])
    x = state()
    got = sample(model, DDIM(), grid, x=x)
    for sigma, lower in pairwise(sigmas):
        time = torch.full((2,), 1000 * sigma, dtype=torch.float64)
        x = x + (lower - sigma) * net(x, time).sample
    assert torch.allclose(got.x, x, rtol=1e-11, atol=1e-11)
    theirs = state()
    for t in scheduler.timesteps:
        theirs = scheduler.step(net(theirs, t.double()).sample, t, theirs).prev_sample.double()
    assert torch.allclose(got.x, theirs, atol=1e-4)


def test_a_learned_variance_is_used_as_their_scheduler_does():
    net = unet(out_channels=6)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    model = from_diffusers(net, exact_table(scheduler))
    x, seven = state(), torch.Generator()
    both = net(x, 300.0).sample
    prediction = model(x, model.sde.at(300.0))
    assert torch.equal(prediction.raw, both[:, :3])
    for t in (1, 300, 999):
        theirs = scheduler.step(net(x, t).sample, t, x, generator=seven.manual_seed(7))
        z = torch.randn(x.shape, generator=seven.manual_seed(7), dtype=x.dtype)
        grid = from_times(model.sde, [t, t - 1], clean=False)
        ours = sample(model, Ancestral("learned"), grid, x=x, noise=Predrawn((z,))).x
        assert torch.allclose(ours, theirs.prev_sample, rtol=1e-10, atol=1e-10), t
        fixed = sample(model, Ancestral("forward"), grid, x=x, noise=Predrawn((z,))).x
        assert not torch.allclose(fixed, ours, rtol=0, atol=1e-8)
    assert torch.equal(
        from_diffusers(net, diffusers.DDPMScheduler(variance_type="learned"))(
            x, model.sde.at(3)
        ).raw,
        net(x, 3.0).sample[:, :3],
    )


def test_a_learned_variance_under_guidance_is_the_conditional_ones():
    net = unet(out_channels=6, num_class_embeds=11)
    model = from_diffusers(net, diffusers.DDPMScheduler(variance_type="learned_range"))
    x, knot, labels = state(), model.sde.at(400.0), torch.tensor([3, 7])
    for batched in (True, False):
        guided = CFG(
            model, cond={"class_labels": labels}, uncond={"class_labels": 10}, scale=3.0,
            batched=batched,
        )  # fmt: skip
        share = 0.5 * (net(x, 400.0, labels).sample[:, 3:] + 1)
        assert torch.allclose(guided(x, knot).share, share, atol=1e-13)


def test_a_network_with_odd_channels_is_told_what_to_write():
    odd = from_diffusers(unet(out_channels=5), diffusers.DDPMScheduler())
    with pytest.raises(ShapeError, match=r"output=lambda"):
        odd(state(), odd.sde.at(300.0))


def test_an_embedding_table_is_told_whole_numbers():
    net = unet(time_embedding_type="learned", num_train_timesteps=1000)
    model = from_diffusers(net, diffusers.DDPMScheduler())
    raw = model(state(), model.sde.at(299.6)).raw
    assert torch.equal(raw, net(state(), torch.tensor(300)).sample)


def test_conditions_and_guidance():
    net = unet(num_class_embeds=11)
    model = from_diffusers(net, diffusers.DDPMScheduler())
    labels, x, knot = torch.tensor([3, 7]), state(), model.sde.at(400.0)
    guided = CFG(model, cond={"class_labels": labels}, uncond={"class_labels": 10}, scale=3.0)
    cond, uncond = net(x, 400.0, labels).sample, net(x, 400.0, torch.tensor([10, 10])).sample
    assert torch.allclose(guided(x, knot).eps, uncond + 3 * (cond - uncond), atol=1e-13)


# -- folders -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
    diffusers.DDPMPipeline(unet().float(), scheduler).save_pretrained(folder)
    return folder


def test_a_pipeline_folder(pipeline):
    model = from_diffusers(pipeline)
    want = from_diffusers(unet().float(), diffusers.DDPMScheduler(prediction_type="v_prediction"))
    x, knot = state().float(), model.sde.at(500.5)
    assert torch.equal(model(x, knot).eps, want(x, knot).eps)
    assert not model.training
    assert not model.bind(flag=None).net.training


def test_a_network_folder_wants_a_scheduler(pipeline):
    with pytest.raises(ConfigError, match="scheduler too"):
        from_diffusers(pipeline / "unet")
    model = from_diffusers(str(pipeline / "unet"), diffusers.DDPMScheduler())
    x = state().float()
    assert torch.equal(model(x, model.sde.at(20.0)).raw, unet().float()(x, 20.0).sample)


def test_folders_that_will_not_do(pipeline, tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist.*save_pretrained"):
        from_diffusers(tmp_path / "nothing", diffusers.DDPMScheduler())
    pickled = tmp_path / "pickled"
    unet().save_pretrained(pickled, safe_serialization=False)
    with pytest.raises(CheckpointError, match="pickled weights are not loaded"):
        from_diffusers(pickled, diffusers.DDPMScheduler())
    corrupt = tmp_path / "corrupt"
    unet().save_pretrained(corrupt)
    (corrupt / "diffusion_pytorch_model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(CheckpointError, match="cannot read"):
        from_diffusers(corrupt, diffusers.DDPMScheduler())
    config = json.loads((corrupt / "config.json").read_text())
    (corrupt / "config.json").write_text(json.dumps({**config, "_class_name": "DDPMPipeline"}))
    with pytest.raises(CheckpointError, match="not a network of diffusers"):
        from_diffusers(corrupt, diffusers.DDPMScheduler())


def test_schedulers_that_say_too_little():
    for scheduler in (
        diffusers.EDMEulerScheduler(),
        diffusers.ScoreSdeVeScheduler(),
        diffusers.IPNDMScheduler(),
        diffusers.EulerDiscreteScheduler(timestep_type="continuous"),
        object(),
    ):
        with pytest.raises(ConfigError, match=r"not have the table of betas.*ScoreModel\("):
            from_diffusers(unet(), scheduler)
    scheduler = diffusers.DDPMScheduler()
    scheduler.register_to_config(prediction_type="noise")
    with pytest.raises(ScoreSDEError, match="prediction_type 'noise'"):
        from_diffusers(unet(), scheduler)
    with pytest.raises(ConfigError, match="reverses time"):
        from_diffusers(unet(), diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
