"""Objects in one scene: each as by itself, the nearer before the farther, and in its part of the image alone."""

import pytest
import torch
from test_proxy_render import SMALL, VOXELS, inputs, tiny_volume

from dreamfusion.pocket.model import scene_render
from dreamfusion.pocket.model.denoiser import camera_features
from dreamfusion.pocket.model.layers import front_to_back
from dreamfusion.pocket.model.scene_render import render_together

TEXT = torch.eye(2)


@pytest.fixture
def volume():
    return tiny_volume().requires_grad_(False)


def balls(count):
    """Decoded volumes with a solid middle and nothing around it."""
    decoded = torch.full((count, VOXELS, VOXELS, VOXELS, SMALL["fine"]), -9.0)
    middle = slice(VOXELS // 4, -VOXELS // 4)
    decoded[:, middle, middle, middle, 0] = 9.0
    return decoded


def together(volume, decoded, camera, places, zoom=1):
    sizes = [(sum(x**2 for x in place[:3]) ** 0.5, place[3]) for place in places]
    return render_together(volume, decoded, TEXT[: len(places)], camera, torch.tensor(places), sizes, zoom)


@pytest.mark.parametrize("zoom", [1, 2])
def test_an_object_alone_in_a_scene_is_rendered_as_by_itself(volume, zoom):
    camera, decoded = inputs()[4], volume.decode(torch.tensor([0]), zoom)
    alone = volume(decoded, TEXT[:1].expand(2, 2), camera, zoom)
    scene = together(volume, decoded, camera, [[0.0, 0.0, 0.0, 1.0]], zoom)
    for name in ("rgba", "normal", "features"):
        torch.testing.assert_close(getattr(scene, name), getattr(alone, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("scale", "zooms"), [(0.5, [1]), (1.0, [2]), (0.75, [1, 2])])
def test_a_small_object_is_painted_as_one_that_fills_a_smaller_image(volume, monkeypatch, scale, zooms):
    """At twice the pixels, half the size is painted as at zoom 1, the full size as at zoom 2, others between."""
    monkeypatch.setattr(scene_render, "_window", lambda *arguments: None)
    camera, decoded, place = inputs()[4], volume.decode(torch.tensor([0]), 2), [0.0, 0.0, 0.0, scale]
    seen = volume.seen(decoded, camera, 2, torch.tensor([place] * 2))
    painted = [volume.painted(seen, TEXT[:1].expand(2, 2), camera, zoom).rgba for zoom in zooms]
    scene = together(volume, decoded, camera, [place], 2)
    torch.testing.assert_close(scene.rgba, sum(painted) / len(painted), atol=1e-5, rtol=1e-5)


def test_a_small_object_in_a_small_image_is_the_mean_of_four_times_the_pixels(volume):
    camera, decoded = inputs()[4], volume.decode(torch.tensor([0]), 1)
    small, large = (together(volume, decoded, camera, [[0.0, 0.0, 0.0, 0.5]], zoom) for zoom in (1, 2))
    assert small.rgba.shape == (2, 4, 64, 64) and small.features.shape[-1] == VOXELS
    torch.testing.assert_close(small.rgba, torch.nn.functional.avg_pool2d(large.rgba, 2))


@pytest.mark.parametrize("centre", [[0.0, 0.0, 0.0], [0.7, 0.3, -0.2], [0.0, -0.8, 0.5]])
def test_the_window_of_an_object_has_all_of_it(volume, monkeypatch, centre):
    camera = camera_features(*torch.tensor([[0.0, 100.0, 230.0], [0.0, 40.0, -15.0], [2.7, 3.0, 3.3]]))
    place, away = torch.tensor([[*centre, 0.2]] * 3), sum(x**2 for x in centre) ** 0.5
    window = scene_render._window(camera, place, away, 0.2, 2 * VOXELS)
    assert window is not None and window.side < 2 * VOXELS
    cut = scene_render._layer(volume, balls(1), TEXT[:1], camera, place, away, 0.2, 2)
    monkeypatch.setattr(scene_render, "_window", lambda *arguments: None)
    whole = scene_render._layer(volume, balls(1), TEXT[:1], camera, place, away, 0.2, 2)
    assert (whole.opacity > 0.5).flatten(1).any(dim=1).all()
    torch.testing.assert_close(cut.opacity, whole.opacity)
    torch.testing.assert_close(cut.depth, whole.depth)
    assert cut.images.shape == whole.images.shape and cut.features.shape == whole.features.shape
    beside = torch.ones(3, 2 * VOXELS, 2 * VOXELS, dtype=torch.bool)
    beside[torch.arange(3)[:, None, None], window.rows[:, :, None], window.columns[:, None]] = False
    assert not cut.images[..., ::4, ::4].transpose(0, 1)[:, beside].any()


def test_the_nearer_object_hides_the_farther_one_from_both_sides():
    layers = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])[:, None, :, None, None]  # G, B, 4: red and blue
    images, features = layers.expand(2, 1, 4, 2, 2), torch.tensor([[[[[5.0]]]], [[[[7.0]]]]])
    opacity = torch.ones(2, 1, 1, 1, 1)
    for nearest in (0, 1):
        order = torch.tensor([nearest, 1 - nearest])[:, None, None, None, None]
        image, felt = front_to_back(order, opacity, images, features)
        torch.testing.assert_close(image, layers[nearest].expand(1, 4, 2, 2))
        assert felt.item() == (5, 7)[nearest]
    image, felt = front_to_back(order, 0.25 * opacity, 0.25 * images, features)
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([0.1875, 0, 0.25, 0.4375]))
    assert felt.item() == pytest.approx(0.25 * 7 + 0.75 * 5)


def test_objects_in_one_scene_hide_each_other_by_their_depth(volume):
    """One object in front of the other, seen from the front and from the back: each hides the other once."""
    places = [[0.0, 0.0, 0.5, 0.4], [0.0, 0.0, -0.5, 0.4]]
    camera = camera_features(torch.tensor([0.0, 180.0]), torch.zeros(2), torch.full((2,), 3.0))
    both = together(volume, balls(2), camera, places)
    for view, place in enumerate(places):
        sizes = [(0.5, 0.4)]
        alone = render_together(volume, balls(1), TEXT[view : view + 1], camera, torch.tensor([place]), sizes)
        centre = (slice(None), slice(7, 9), slice(7, 9))
        torch.testing.assert_close(both.features[view][centre], alone.features[view][centre], atol=1e-3, rtol=1e-3)
        assert (both.features[1 - view][centre] - alone.features[1 - view][centre]).abs().max() > 1e-3
