import math

import pytest
import torch

from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.denoiser import CAMERA_FEATURES, PocketModel, camera_features, with_appearance
from dreamfusion.pocket.model.text import TOKENS, WIDTH

TINY = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
SMALL = {"voxels": 16, "code": 4, "coarse": 16, "middle": 8, "fine": 8, "width": 16, "hidden": 16}  # feature volume


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return PocketModel.create(TINY, {"cat": "cat", "dog": "dog"}, **SMALL).eval().requires_grad_(False)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(TOKENS) < torch.tensor([[3], [7]])
    states = torch.randn(2, TOKENS, WIDTH, generator=generator) * mask[..., None]
    camera = camera_features(torch.tensor([0.0, 120.0]), torch.tensor([10.0, 60.0]), torch.tensor([3.0, 2.8]))
    return torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([10, 900]), states, mask, camera


def test_saved_weights_give_the_same_images_up_to_half_precision(tiny, inputs, tmp_path):
    tiny.save(tmp_path)
    loaded = PocketModel.load(tmp_path).eval()
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    torch.testing.assert_close(loaded(*inputs), tiny(*inputs), atol=5e-3, rtol=5e-3)
    half = dict(tiny.unet.state_dict())
    for name, value in loaded.unet.state_dict().items():
        torch.testing.assert_close(value, half[name].half().float(), atol=0, rtol=0)


def test_the_network_takes_images_of_twice_the_size(tiny, inputs):
    noisy, *others = inputs
    large = torch.nn.functional.interpolate(noisy, scale_factor=2)
    estimate = tiny(large, *others)  # a new network's estimate is the proxy render
    proxy = tiny.render_proxy(others[1], others[2], others[3], size=128)
    torch.testing.assert_close(estimate, proxy.over(others[3][:, -2]))
    assert estimate.shape == large.shape


def test_the_packaged_weights_load_and_denoise(inputs):
    model = PocketModel.load(WEIGHTS).eval().requires_grad_(False)
    assert model.feature_volume.variants("horse") == [4, 5]  # config.json has the keys of earlier code
    noisy, _, states, mask, camera = inputs
    clean = torch.full((2, 3, 64, 64), 0.5)
    abar = model.alphas_cumprod[200]
    empty = with_appearance(camera * 0, torch.tensor([[0.5, 0.0]] * 2))  # a grey image, given as background
    estimate = model(abar.sqrt() * clean + (1 - abar).sqrt() * noisy, torch.full((2,), 200), states * 0, mask, empty)
    assert (estimate - clean).square().mean() < 0.05 * (1 - abar) / abar


def test_camera_features_are_sines_and_cosines_and_never_all_zero():
    azimuth, elevation = torch.tensor([30.0]), torch.tensor([-15.0])
    (features,) = camera_features(azimuth, elevation, torch.tensor([3.3]))
    a, e = math.radians(30), math.radians(-15)
    waves = [f(k * x) for x in (a, e) for k in (1, 2) for f in (math.sin, math.cos)]
    torch.testing.assert_close(features, torch.tensor([*waves, 1.0, 1.0, 0.0, 0.0]), atol=1e-6, rtol=1e-5)
    assert features.shape == (CAMERA_FEATURES,)
    everywhere = camera_features(torch.arange(360.0), torch.zeros(360), torch.full((360,), 3.0))
    assert (everywhere[:, 9] == 1).all()  # distinguishes a camera from zeros, which mean none


def test_azimuth_is_periodic():
    one, two = (camera_features(torch.tensor([x]), torch.zeros(1), torch.full((1,), 3.0)) for x in (-10.0, 350.0))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_the_output_depends_on_text_and_camera_but_not_on_padding(tiny, inputs):
    noisy, timestep, states, mask, camera = inputs
    plain = tiny(*inputs)
    assert (tiny(noisy, timestep, states, mask, camera * 0) - plain).abs().max() > 1e-3
    assert (tiny(noisy, timestep, -states, mask, camera) - plain).abs().max() > 1e-3
    padded = torch.where(mask[..., None], states, 7.0)
    torch.testing.assert_close(tiny(noisy, timestep, padded, mask, camera), plain, atol=1e-4, rtol=1e-4)


def test_a_folder_without_weights_is_an_error_that_names_the_part(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unet/config.json is missing; train one with mode=pretrain"):
        PocketModel.load(tmp_path)
