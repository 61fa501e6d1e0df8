"""The adapter of Zero-1-to-3 on small random networks of the published classes, against a formulation of its own."""

import json

import numpy as np
import pytest
import torch
from options import make_sds, noises, option
from pipelines import save_sd, save_zero123

from dreamfusion.camera.orbit import look_from, spherical
from dreamfusion.error import GuidanceError, UserError
from dreamfusion.guidance.prior import PictureConditioned
from dreamfusion.guidance.zero123 import relative_camera
from dreamfusion.runs.check import LOOKING, check_first
from dreamfusion.runs.reference import described
from dreamfusion.types import Branch, Conditioning


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_zero123(tmp_path_factory.mktemp("zero123"))


def views_at(azimuth, elevation, distance):
    azimuth, elevation, distance = (torch.tensor(values) for values in (azimuth, elevation, distance))
    position = spherical(azimuth, elevation, distance)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(len(azimuth), 3)
    return look_from(position, torch.zeros_like(position), up, torch.full_like(azimuth, 20.0), position, 8, 8)


VIEWS, FRONT = views_at([10.0, 200.0, 350.0], [-5.0, 60.0, 15.0], [3.2, 3.3, 3.0]), views_at([30.0], [15.0], [3.1])
PICTURE = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def prior(folder):
    made = option("guidance/zero123", model=str(folder), resolution=32)
    made.look_at(PICTURE, FRONT)
    return made


def published(cameras, reference, stable):
    """The relative camera of the published code, from positions with z up: polar angle, azimuth and radius."""

    def angles(views):
        x, y, z = (views.camera_to_world[:, [2, 0, 1], 3].numpy().astype(np.float64)).T
        radius = np.sqrt(x**2 + y**2 + z**2)
        return np.arccos(z / radius), np.arctan2(y, x), radius

    (polar, azimuth, radius), (polar0, azimuth0, radius0) = angles(cameras), angles(reference)
    turn = (azimuth - azimuth0) % (2 * np.pi)
    last = np.broadcast_to(polar0, polar.shape) if stable else radius - radius0
    return np.stack([polar - polar0, np.sin(turn), np.cos(turn), last], axis=1)


@pytest.mark.parametrize("stable", [False, True])
def test_a_camera_is_that_of_the_published_code(stable):
    code = relative_camera(VIEWS, FRONT, stable).numpy()
    np.testing.assert_allclose(code, published(VIEWS, FRONT, stable), atol=2e-6)


def test_the_prediction_is_the_networks_for_picture_and_camera_and_without_both(prior, folder):
    """Written with the networks of the folder alone."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    generator = torch.Generator().manual_seed(0)
    noisy, timestep = torch.randn(3, 4, 16, 16, generator=generator), torch.tensor([100, 500, 900])
    text = prior.encode_text(["", "unread", "unread"])
    found = noises(prior, noisy, timestep, [Branch(text, VIEWS), Branch(text, VIEWS, unconditional=True)])
    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"))
    vae = AutoencoderKL.from_pretrained(str(folder / "vae"))
    encoder = CLIPVisionModelWithProjection.from_pretrained(str(folder / "image_encoder"))
    linear = load_file(next((folder / "clip_camera_projection").glob("*.safetensors")))
    with torch.no_grad():
        small = torch.nn.functional.interpolate(PICTURE, (24, 24), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
        embedding = encoder((small - mean[:, None, None]) / deviation[:, None, None]).image_embeds
        code = torch.from_numpy(published(VIEWS, FRONT, False)).float()
        token = torch.cat([embedding.repeat(3, 1), code], 1) @ linear["proj.weight"].T + linear["proj.bias"]
        shrunk = torch.nn.functional.interpolate(PICTURE, (32, 32), mode="bilinear", antialias=True)
        latents = vae.encode(shrunk * 2 - 1).latent_dist.mode().repeat(3, 1, 1, 1)
        with_picture = unet(torch.cat([noisy, latents], 1), timestep, token[:, None]).sample
        without = unet(torch.cat([noisy, 0 * latents], 1), timestep, 0 * token[:, None]).sample
    torch.testing.assert_close(found[0], with_picture, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], without, atol=1e-4, rtol=1e-4)
    assert (with_picture - without).abs().max() > 1e-2


def test_the_picture_has_the_scale_of_the_networks_training_with_any_autoencoder(prior, folder, tmp_path):
    """The latents of taesd are scaled already."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path)
    other = option("guidance/zero123", model=str(folder), resolution=32, vae=str(tmp_path))
    other.look_at(PICTURE, FRONT)
    scale = json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"]
    for one in (prior, other):
        shrunk = torch.nn.functional.interpolate(PICTURE, (32, 32), mode="bilinear", antialias=True)
        torch.testing.assert_close(one._picture[1] * scale, one.encode_image(shrunk), atol=1e-3, rtol=1e-3)


def test_distillation_takes_it(prior, seeded):
    rgb = torch.rand(3, 3, 32, 32, generator=seeded(), requires_grad=True)
    text = prior.encode_text([""] * 3)
    make_sds(prior)(rgb, Conditioning(text, text, VIEWS), 0.5, seeded()).loss.backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


def test_what_is_missing_is_named(folder, tmp_path):
    without = option("guidance/zero123", model=str(folder), resolution=32)
    text = without.encode_text([""])
    noisy, timestep = torch.zeros(1, 4, 16, 16), torch.tensor([500])
    with pytest.raises(GuidanceError, match=r"needs a picture of the object; type image=cat\.png"):
        without.denoise(noisy, timestep, [Branch(text, FRONT)])
    without.look_at(PICTURE, FRONT)
    with pytest.raises(GuidanceError, match="predicts views at known cameras only"):
        without.denoise(noisy, timestep, [Branch(text)])
    other = save_sd(tmp_path)
    for part in ("image_encoder", "clip_camera_projection"):
        (other / part).symlink_to(folder / part)
    with pytest.raises(GuidanceError, match="takes 4 channels, expected 8: it takes no picture"):
        option("guidance/zero123", model=str(other))
    with pytest.raises(GuidanceError, match="takes 8 channels, expected 4"):
        option("guidance/sd", model=str(sd_with(folder, other)))


def sd_with(folder, other):
    """Stable Diffusion with the U-Net of `folder`."""
    (other / "unet").rename(other / "own")
    (other / "unet").symlink_to(folder / "unet")
    return other


def test_a_run_needs_a_picture_and_no_prompt(prior, tmp_path, compose_config):
    assert isinstance(prior, PictureConditioned)
    assert f"{type(prior).__module__}.{type(prior).__name__}" in LOOKING
    with pytest.raises(UserError, match=r"guidance=zero123 needs a picture of the object; type image=cat\.png"):
        check_first("train", compose_config("prompt=a cat", "guidance=zero123"))
    picture = tmp_path / "my cat.png"
    picture.write_bytes(b"")
    cfg = compose_config(f"image={picture}", "guidance=zero123")
    check_first("train", cfg)
    assert described(cfg).prompt == "my cat"
