"""The SD3 adapter on small random networks of the published classes, against diffusers' own pipeline."""

import pytest
import torch
from options import option
from pipelines import LENGTH, save_sd3

from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.types import Branch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module", params=[False, True], ids=["clips", "with T5"])
def prior(request, folder):
    return option("guidance/sd3", model=str(folder), t5=request.param)


@pytest.fixture(scope="module")
def pipeline(folder):
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
    from diffusers import FlowMatchEulerDiscreteScheduler as Scheduler
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    classes = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": T5Tokenizer,
        "scheduler": Scheduler,
    }
    return StableDiffusion3Pipeline(**{part: cls.from_pretrained(folder / part) for part, cls in classes.items()})


@torch.no_grad()
def test_texts_and_pooled_texts_are_those_of_the_pipeline(prior, pipeline):
    text = prior.encode_text(["a cat", ""])
    third = pipeline.text_encoder_3
    pipeline.text_encoder_3 = third if prior._t5 else None
    states, null, pooled, null_pooled = pipeline.encode_prompt("a cat", None, None, negative_prompt="")
    pipeline.text_encoder_3 = third
    assert text.states.shape == (2, LENGTH + 256, 48)
    torch.testing.assert_close(text.states, torch.cat([states, null]))
    torch.testing.assert_close(text.pooled, torch.cat([pooled, null_pooled]))


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 300, 900])
def test_a_step_down_the_noise_levels_is_the_pipelines_euler_step_along_its_velocity(prior, pipeline, step):
    """alpha' x0_hat + sigma' eps_hat of the variance-preserving process, undone by its factor, is x + (s' - s) v."""
    text = prior.encode_text(["a cat", "a dog"])
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(1000)
    scheduler._step_index = step
    time, following = scheduler.sigmas[step], scheduler.sigmas[step + 1]
    sample = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    velocity = pipeline.transformer(
        sample,
        timestep=scheduler.timesteps[step].expand(2),
        encoder_hidden_states=text.states,
        pooled_projections=text.pooled,
    ).sample
    expected = scheduler.step(velocity, scheduler.timesteps[step], sample).prev_sample
    index = torch.tensor([999 - step, 999 - step])
    noisy = sample / (time**2 + (1 - time) ** 2).sqrt()
    (clean,) = prior.denoise(noisy, index, [Branch(text)])
    noise = noise_from_clean(clean, noisy, prior.alphas_cumprod[index])
    if step:  # the pipeline shifts its least time twice, so that its times are up to 0.006 later than the folder's
        clean = (sample - time * noise) / (1 - time)
    torch.testing.assert_close((1 - following) * clean + following * noise, expected, atol=3e-4, rtol=1e-3)


def test_noise_levels_are_the_shifted_times_of_the_folder_up_to_pure_noise(prior):
    abar = prior.alphas_cumprod
    assert len(abar) == 1000
    assert (abar.diff() < 0).all()
    assert abar[-1] == 0
    time = 3 * 0.5 / (1 + 2 * 0.5)
    torch.testing.assert_close(abar[499], torch.tensor((1 - time) ** 2 / ((1 - time) ** 2 + time**2)))


def test_latents_are_shifted_and_scaled(prior, pipeline):
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = pipeline.vae.encode(rgb * 2 - 1).latent_dist.mean
        latents = prior.encode_image(rgb)
        torch.testing.assert_close(latents, (mean - 0.0609) * 1.5305)
        decoded = pipeline.image_processor.postprocess(pipeline.vae.decode(mean).sample, output_type="pt")
    torch.testing.assert_close(prior.decode(latents), decoded, atol=1e-5, rtol=1e-5)


def test_a_sampled_image_is_finite_from_pure_noise_on(prior):
    from dreamfusion.diffusion.ddim import ddim_sample
    from dreamfusion.guidance.sampling import start_noise

    text = prior.encode_text(["a cat"])

    def predict_clean(noisy, timestep):
        return prior.denoise(noisy, timestep, [Branch(text)])[0]

    start = start_noise(prior, 1, torch.Generator().manual_seed(0))
    latents = ddim_sample(predict_clean, start, prior.alphas_cumprod, 4, clip=False)
    assert latents.isfinite().all()
    assert latents.abs().max() < 100


def test_a_single_file_need_not_have_the_third_encoder_if_it_is_not_used(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dreamfusion.guidance.diffusers_prior.unpacked", lambda file, pipeline, left: asked.append(left) or folder
    )
    (tmp_path / "sd3.safetensors").touch()
    for t5, left in ((False, ("text_encoder_3", "tokenizer_3")), (True, ())):
        option("guidance/sd3", model=str(tmp_path / "sd3.safetensors"), resolution=32, t5=t5)
        assert asked[-1] == left
