"""The SDXL adapter on small random networks of the published classes, against diffusers' own pipeline."""

import json
import shutil

import pytest
import torch
from options import option, predict
from pipelines import LENGTH, save_autoencoder, save_sdxl
from safetensors.torch import save_file

from dreamfusion.error import GuidanceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def prior(folder):
    return option("guidance/sdxl", model=str(folder))


@pytest.fixture(scope="module")
def pipeline(folder):
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "scheduler": EulerDiscreteScheduler,
    }
    return StableDiffusionXLPipeline(**{part: cls.from_pretrained(folder / part) for part, cls in classes.items()})


def test_texts_and_pooled_texts_are_those_of_the_pipeline_and_the_empty_text_is_zero(prior, pipeline):
    text = prior.encode_text(["a cat", ""])
    with torch.no_grad():
        states, null, pooled, null_pooled = pipeline.encode_prompt("a cat")
    assert text.states.shape == (2, LENGTH, 40)
    torch.testing.assert_close(text.states, torch.cat([states, null]))
    torch.testing.assert_close(text.pooled, torch.cat([pooled, null_pooled]))


@torch.no_grad()
def test_the_noise_is_that_of_the_pipelines_network_with_its_size_conditions(prior, pipeline):
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    timestep, text = torch.tensor([100, 700]), prior.encode_text(["a cat", "a dog"])
    sizes = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), dtype=torch.float32, text_encoder_projection_dim=24)
    conditions = {"text_embeds": text.pooled, "time_ids": sizes.repeat(2, 1)}
    expected = pipeline.unet(noisy, timestep, encoder_hidden_states=text.states, added_cond_kwargs=conditions).sample
    torch.testing.assert_close(predict(prior, noisy, timestep, text), expected)
    conditions["time_ids"] = conditions["time_ids"] / 2
    other = pipeline.unet(noisy, timestep, encoder_hidden_states=text.states, added_cond_kwargs=conditions).sample
    assert (other - expected).abs().max() > 1e-4


def test_a_smaller_image_counts_as_a_crop_of_a_full_original(folder):
    prior = option("guidance/sdxl", model=str(folder), resolution=16)
    assert prior.resolution == 16
    assert prior.encode_image(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)
    text = prior.encode_text(["a cat"])
    sizes = prior._conditions(text, [], torch.float32)["added_cond_kwargs"]["time_ids"]
    assert sizes.tolist() == [[32, 32, 0, 0, 16, 16]]


@pytest.mark.parametrize("resolution", [0, 15])
def test_a_resolution_that_does_not_fit_names_the_trained_one(folder, resolution):
    with pytest.raises(GuidanceError, match=rf"={resolution}, expected a multiple of 2; type guidance.resolution=32,"):
        option("guidance/sdxl", model=str(folder), resolution=resolution)


def test_its_autoencoder_is_refused_in_float16_and_another_one_is_not(folder, tmp_path):
    with pytest.raises(GuidanceError, match=r"overflows in float16 .* guidance.vae=madebyollin/sdxl-vae-fp16-fix"):
        option("guidance/sdxl", model=str(folder), vae_dtype="float16")
    save_autoencoder(tmp_path / "other")
    prior = option("guidance/sdxl", model=str(folder), vae=str(tmp_path / "other"), vae_dtype="bfloat16")
    latents = prior.encode_image(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert latents.dtype == torch.float32
    assert prior.decode(latents).shape == (1, 3, 32, 32)
    assert prior._vae.dtype == torch.bfloat16


def test_a_tiny_autoencoder_takes_the_place_of_the_models_own(folder, tmp_path):
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    tiny.save_pretrained(tmp_path / "tiny")
    prior = option("guidance/sdxl", model=str(folder), vae=str(tmp_path / "tiny"))
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.encode_image(rgb), tiny.encode(rgb * 2 - 1).latents)


def test_an_autoencoder_of_another_class_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(GuidanceError, match="is a UNet2DModel, expected AutoencoderKL or AutoencoderTiny"):
        option("guidance/sdxl", model=str(folder), vae=str(tmp_path))


def test_a_word_that_was_added_does_not_end_the_pooled_text(folder, tmp_path):
    """With the published eos_token_id of 2, transformers pools at the largest token, which an added word's is."""
    from transformers import CLIPTextModelWithProjection

    network = CLIPTextModelWithProjection.from_pretrained(str(folder / "text_encoder_2"))
    network.config.eos_token_id = 2
    copied = shutil.copytree(folder, tmp_path / "sdxl")
    network.save_pretrained(str(copied / "text_encoder_2"))
    widths = {f"clip_{size}": torch.ones(1, width(folder, number)) for size, number in (("l", ""), ("g", "_2"))}
    save_file(widths, tmp_path / "style.safetensors")
    prior = option("guidance/sdxl", model=str(copied), resolution=32, tokens=[str(tmp_path / "style.safetensors")])
    pooled = prior.encode_text(["a style cat", "a style cat, back view"]).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-4


def width(folder, number):
    return json.loads((folder / f"text_encoder{number}" / "config.json").read_text())["hidden_size"]


def test_an_autoencoder_of_other_latents_is_refused(folder, tmp_path):
    copied = shutil.copytree(folder / "vae", tmp_path / "vae")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}))
    with pytest.raises(GuidanceError, match=r"other latents than sdxl was trained with \(scaling_factor 0.13025, not "):
        option("guidance/sdxl", model=str(folder), resolution=32, vae=str(copied))
