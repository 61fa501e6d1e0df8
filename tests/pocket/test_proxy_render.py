"""Feature volume: zero residuals at first, the renders' camera geometry, and 3D consistency after training."""

import math

import numpy as np
import pytest
import torch

from dreamfusion.pocket.data.renders import stratified_cameras
from dreamfusion.pocket.model.denoiser import PocketModel, camera_features
from dreamfusion.pocket.model.proxy_render import FeatureVolume, ProxyRender, _averaged
from dreamfusion.pocket.model.rays import HALF_EXTENT, OUTSIDE, ray_points

VOXELS = 16

SMALL = {"voxels": VOXELS, "code": 4, "coarse": 16, "middle": 8, "fine": 8, "width": 16, "hidden": 16}

TINY = {
    "block_out_channels": [16, 16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "mid_block_type": None,
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def inputs():
    generator = torch.Generator().manual_seed(0)
    noisy, states = (torch.randn(size, generator=generator) for size in ((2, 3, 64, 64), (2, 16, 384)))
    camera = camera_features(torch.tensor([0.0, 100.0]), torch.tensor([10.0, 60.0]), torch.tensor([3.0, 2.8]))
    return noisy, torch.tensor([100, 900]), states, torch.ones(2, 16, dtype=torch.bool), camera


def tiny_volume(subjects=("a", "b"), text=2):
    torch.manual_seed(0)
    names = list(subjects)
    return FeatureVolume(subjects=names, names=names, text=text, camera=12, channels=(16, 16, 32), **SMALL)


def tiny_model(unshuffle=8):
    return PocketModel.create(TINY, {"z 1": "z", "b": "b", "z 2": "z"}, unshuffle=unshuffle, **SMALL)


def test_a_coarser_volume_has_the_same_optical_depth_along_a_ray():
    """Means over 2^3 voxels, and half the samples: 2 * mean(softplus(d)) of each."""
    torch.manual_seed(0)
    fine = 3 * torch.randn(1, 5, 8, 8, 8) - 2
    coarse = _averaged(fine, 2, 2)
    assert coarse.shape == (1, 5, 4, 4, 4)
    depths = [torch.nn.functional.softplus(volume[:, 0]) for volume in (fine, coarse)]
    per_block = depths[0].view(1, 4, 2, 4, 2, 4, 2).mean((2, 4)).sum(-1)  # of two samples in a row
    torch.testing.assert_close(depths[1], per_block)
    torch.testing.assert_close(coarse[:, 1:], torch.nn.functional.avg_pool3d(fine[:, 1:], 2))
    assert _averaged(torch.full((1, 2, 2, 2, 2), -60.0), 2, 2).isfinite().all()


def test_images_of_the_smaller_size_see_the_volume_averaged_to_their_rays():
    torch.manual_seed(0)
    volume = FeatureVolume(["a"], ["a"], 2, 12, (16, 16, 32), **(SMALL | {"voxels": 2 * VOXELS}), rays=VOXELS)
    camera, one = inputs()[4], torch.tensor([0])
    for zoom, voxels in ((1, VOXELS), (2, 2 * VOXELS)):
        decoded = volume.decode(one, zoom)
        assert decoded.shape == (1, voxels, voxels, voxels, SMALL["fine"])
        proxy = volume(decoded, torch.zeros(2, 2), camera, zoom)
        assert proxy.rgba.shape == (2, 4, 64 * zoom, 64 * zoom)
        assert proxy.features.shape == (2, SMALL["width"], zoom * VOXELS, zoom * VOXELS)


def test_half_the_voxels_are_the_average_of_all_as_long_as_the_decoder_repeats_them():
    torch.manual_seed(0)
    volume = FeatureVolume(["a", "b"], ["a", "b"], 2, 12, (16,), **(SMALL | {"voxels": 2 * VOXELS}), rays=VOXELS)
    with torch.no_grad():
        volume.codes.mul_(20)
    both, decoded = torch.tensor([1, 0]), {}
    for coarse in (False, True):
        volume.halve = coarse
        decoded[coarse] = volume.decode(both)
    assert decoded[True].std() > 0.1
    torch.testing.assert_close(decoded[True][..., 1:], decoded[False][..., 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded[True][..., 0], decoded[False][..., 0], rtol=0, atol=2e-3)  # softplus is curved
    assert volume.decode(both, 2).shape[1] == 2 * VOXELS, "images of the larger size need all voxels"
    with torch.no_grad():
        volume.volume[-3].weight[:, :, 0].mul_(2)
        exact = volume.eval().decode(both)
        assert not torch.allclose(volume.train().decode(both), exact, atol=1e-2)
        volume.halve = False
        torch.testing.assert_close(volume.train().decode(both), exact, rtol=1e-4, atol=1e-4)


def test_a_third_of_the_voxels_cannot_be_decoded_as_halves():
    torch.manual_seed(0)
    volume = FeatureVolume(["a"], ["a"], 2, 12, (16,), **(SMALL | {"voxels": 3 * VOXELS}), rays=VOXELS)
    whole = volume.decode(torch.tensor([0]))
    assert whole.shape[1] == VOXELS
    volume.halve = True
    assert torch.equal(volume.decode(torch.tensor([0])), whole)


def test_residuals_of_a_new_volume_are_zero():
    volume = tiny_volume()
    residuals, bottom = volume.residuals(torch.randn(1, 16, VOXELS, VOXELS))
    assert not any(r.any() for r in residuals) and not bottom.any()


def test_twice_the_rays_give_twice_the_pixels_of_the_same_view():
    """In a smooth volume: the image layers reach as far in the scene."""
    volume = tiny_volume().requires_grad_(False)
    place = (torch.arange(VOXELS) + 0.5) / VOXELS
    smooth = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), -1).repeat(1, 1, 1, 3)[None, ..., :8]
    camera = inputs()[4]
    small, large = (volume(smooth.contiguous(), torch.zeros(2, 2), camera, zoom) for zoom in (1, 2))
    assert large.rgba.shape == (2, 4, 128, 128) and large.normal.shape == (2, 3, 128, 128)
    assert large.features.shape == (2, 16, 2 * VOXELS, 2 * VOXELS)
    coarse, pooled = small.features, torch.nn.functional.avg_pool2d(large.features, 2)
    assert (pooled - coarse).square().mean() < 0.02 * coarse.var()


@pytest.mark.parametrize("zoom", [1, 2])
def test_gradients_in_bfloat16_are_near_those_in_float32_at_both_sizes(zoom):
    torch.manual_seed(0)
    wide = {"voxels": 32, "rays": 16, "code": 4}  # the other widths as configured
    volume = FeatureVolume(subjects=["a"], names=["a"], text=8, camera=12, channels=(16, 16, 32), **wide)
    text, camera, gradients = torch.randn(2, 8), inputs()[4], []
    for half in (False, True):
        volume.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            proxy = volume(volume.decode(torch.tensor([0]), zoom), text, camera, zoom)
            loss = proxy.rgba.float().square().mean() + proxy.normal.float().square().mean()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in volume.named_parameters() if p.grad is not None})
    for name, exact in gradients[0].items():
        assert (gradients[1][name] - exact).norm() < 0.1 * exact.norm(), name


@pytest.mark.parametrize("place", [None, [0.4, -0.2, 0.1, 0.5]])
def test_rays_match_the_camera_of_the_renders(place):
    """Projected by the render camera, the samples of a ray fall on its image cell, through a placed volume too."""
    cameras = stratified_cameras(6, 64, np.random.default_rng(0))
    features = camera_features(cameras.azimuth, cameras.elevation, cameras.distance)
    points = ray_points(features, VOXELS, None, None if place is None else torch.tensor([place] * 6))
    assert points.shape == (6, VOXELS**2, VOXELS, 3)
    assert ray_points(features, VOXELS, 3).shape == (6, 9, VOXELS, 3)
    inside = points[..., 0] != OUTSIDE
    assert inside.any(dim=(1, 2)).all()
    assert (points[inside].norm(dim=-1) <= 1).all()
    pose = cameras.camera_to_world
    centre, scale = torch.tensor(place[:3] if place else [0.0] * 3), place[3] if place else 1.0
    scene = points * HALF_EXTENT * scale + centre
    seen = torch.einsum("bsdx,bxy->bsdy", scene - pose[:, None, None, :, 3], pose[..., :3])
    plane = seen[..., :2] / -seen[..., 2:] / math.tan(math.radians(20))
    middle = (torch.arange(VOXELS) + 0.5) * 2 / VOXELS - 1
    column, row = middle.repeat(VOXELS), -middle.repeat_interleave(VOXELS)
    for axis, expected in enumerate((column, row)):
        difference = (plane[..., axis] - expected[None, :, None])[inside]
        assert difference.abs().max() < 1e-4
    depth = -seen[..., 2]
    assert ((depth[..., 1:] > depth[..., :-1]) | ~inside[..., 1:] | ~inside[..., :-1]).all()


def test_cameras_of_one_model_share_its_volume():
    volume = tiny_volume().eval()
    text, camera = torch.randn(4, 2), torch.cat([inputs()[4], inputs()[4]])
    decoded = volume.decode(torch.tensor([1, 0]))
    together = volume(decoded, text, camera)
    apart = volume(decoded.repeat_interleave(2, 0), text, camera)
    torch.testing.assert_close(together.rgba, apart.rgba, atol=1e-5, rtol=1e-4)


def test_a_frozen_volume_is_decoded_once_and_one_in_training_each_time():
    volume = tiny_volume()
    one, other = torch.tensor([1]), torch.tensor([0])
    with torch.no_grad():
        before = volume.decode(one)
        volume.codes += 1
        assert not torch.equal(volume.decode(one), before)
    volume.requires_grad_(False)
    kept = volume.decode(one)
    assert volume.decode(one) is kept
    assert not torch.equal(volume.decode(other), kept)
    assert torch.equal(volume.decode(one), kept)
    volume._cached = 1, one.to("meta"), kept  # from a device that the prior has left
    assert torch.equal(volume.decode(one), kept)


def test_an_object_trained_from_one_side_renders_from_the_opposite_one():
    """A square on the right seen from +z is on the left seen from -z, a view without training images."""
    volume = tiny_volume()
    angle = torch.tensor([-30.0, -15.0, 0.0, 15.0, 30.0, 180.0])
    camera = camera_features(angle, torch.zeros(6), torch.full((6,), 3.0))
    rays = ray_points(camera, VOXELS).view(6, VOXELS, VOXELS, VOXELS, 3)
    thing = (rays - torch.tensor([0.4, 0.0, 0.0])).abs().amax(-1) < 0.25
    target = thing.any(-1).float().repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 4, -1, -1)
    optimizer = torch.optim.Adam(volume.parameters(), lr=5e-3)
    text, subject = torch.ones(6, 2), torch.tensor([0])
    for _ in range(60):
        loss = (volume(volume.decode(subject), text[:5], camera[:5]).rgba - target[:5]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    opacity = volume(volume.decode(subject), text, camera).rgba[:, 3].detach()
    assert loss < 0.02
    assert opacity[2, :, 32:].mean() > 3 * opacity[2, :, :32].clamp(min=0).mean()
    assert opacity[5, :, :32].mean() > 2 * opacity[5, :, 32:].clamp(min=0).mean()


def test_the_text_selects_the_name_and_the_variant_one_of_its_models():
    model = tiny_model().eval().requires_grad_(False)
    _, _, states, mask, camera = inputs()
    model.feature_volume.classify.weight.zero_()
    model.feature_volume.classify.bias.copy_(torch.tensor([2.0, 1.0]))
    assert model.feature_volume.vocabulary == ["z", "b"]
    assert model.feature_volume.variants("z") == [0, 2] and model.feature_volume.variants("b") == [1]
    for variant, subject in enumerate([0, 2, 2]):
        selected = model.render_proxy(states, mask, camera, variant=variant)
        given = model.render_proxy(states, mask, camera, torch.tensor([subject]))
        assert torch.equal(selected.rgba, given.rgba)


def test_a_proxy_render_is_composited_over_grey():
    rgba = torch.tensor([0.3, 0.2, 0.1, 0.5]).view(1, 4, 1, 1)
    white = torch.tensor([1.0])  # colour + (1 - opacity)
    over = ProxyRender(rgba, rgba[:, :3], rgba).over(white).flatten()
    torch.testing.assert_close(over * 0.5 + 0.5, torch.tensor([0.8, 0.7, 0.6]))


def test_an_unknown_camera_removes_the_proxy_render():
    model = tiny_model()
    noisy, timestep, states, mask, camera = inputs()
    torch.nn.init.normal_(model.feature_volume.out[0].weight, std=0.1)
    given = model(noisy, timestep, states, mask, camera)
    assert (model(noisy, timestep, states, mask, camera * 0) - given).abs().max() > 1e-3
    unknown = model(noisy, timestep, states, mask, camera * 0)
    with torch.no_grad():
        model.feature_volume.paint.bias += 1
    torch.testing.assert_close(model(noisy, timestep, states, mask, camera * 0), unknown)


@pytest.mark.parametrize("unshuffle", [4, 8])
def test_both_patch_sizes_survive_saving_and_loading(tmp_path, unshuffle):
    model = tiny_model(unshuffle)
    torch.nn.init.normal_(model.feature_volume.out[0].weight, std=0.1)
    model.save(tmp_path)
    loaded = PocketModel.load(tmp_path)
    assert loaded.unshuffle == unshuffle
    assert loaded.feature_volume.config.subjects == ["z 1", "b", "z 2"]  # in the order of the codes
    assert loaded.feature_volume.names == ["z", "b", "z"]
    torch.testing.assert_close(loaded(*inputs()), model(*inputs()), atol=2e-2, rtol=2e-2)
