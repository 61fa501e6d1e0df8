import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.camera.orbit import Orbit
from dreamfusion.report.picture import with_transparency, write_depth, write_rgba, write_webp
from dreamfusion.scene import picture
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.scene.picture import render_picture

COLOR = (0.8, 0.3, 0.1)
ORBIT = Orbit([0, 0], [3, 3], False, [1.374, 1.374], 0.0, 0.0, 0.0, 0.0, [3, 3], 1, 1, 64)


@pytest.fixture
def scene(ball):
    field = ball(density=200.0, size=0.6, color=COLOR)
    return NeRF(field, ConstantBackground([1, 1, 1]), StratifiedRenderer(1.0, 256))


def seen(scene, **options):
    return render_picture(scene, ORBIT.view(torch.zeros(1), 0.0, 33, 33), **options)


def test_a_ball_is_opaque_in_the_middle_and_nothing_at_the_rim(scene):
    image = seen(scene, with_normal=True)
    assert image.opacity[16, 16] == pytest.approx(1, abs=1e-4)
    assert image.opacity[0, 0] == 0
    np.testing.assert_allclose(image.color[16, 16], COLOR, atol=1e-4)
    assert image.depth[16, 16] == pytest.approx(3 - 0.6, abs=0.02)
    assert image.depth[0, 0] == 0
    np.testing.assert_allclose(image.normal[16, 16], [0, 0, 1], atol=1e-3)


def test_strips_give_the_picture_of_the_whole(scene, monkeypatch):
    whole = seen(scene, with_normal=True)
    monkeypatch.setattr(picture, "STRIP", 70 * scene.bytes_per_ray(True))
    strips = seen(scene, with_normal=True)
    for name in ("color", "opacity", "depth", "normal"):
        np.testing.assert_allclose(getattr(strips, name), getattr(whole, name), atol=1e-5)


def test_no_more_rays_than_fit_into_a_strip_are_rendered_at_once(scene, monkeypatch):
    counts, sample = [], StratifiedRenderer.sample

    def counted(self, rays, generator):
        counts.append(len(rays))
        return sample(self, rays, generator)

    monkeypatch.setattr(StratifiedRenderer, "sample", counted)
    monkeypatch.setattr(picture, "STRIP", 100 * scene.bytes_per_ray(False))
    seen(scene)
    assert max(counts) <= 100
    assert sum(counts) == 33 * 33


def test_files_read_back_are_what_was_seen(scene, tmp_path):
    image = seen(scene)
    rgba = with_transparency(image.color, image.opacity)
    write_rgba(rgba, tmp_path / "still.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "still.png")), rgba)
    write_depth(image.depth, tmp_path / "depth.png", 2, 4)
    with Image.open(tmp_path / "depth.png") as file:
        coded, near, far = np.asarray(file).astype(float), float(file.text["near"]), float(file.text["far"])
    assert (coded[image.depth == 0] == 0).all()
    there = image.depth > 0
    np.testing.assert_allclose(near + (coded[there] - 1) / 65534 * (far - near), image.depth[there], atol=4e-5)
    write_webp([rgba, np.roll(rgba, 5, 1), 255 - rgba], tmp_path / "a.webp", 10)
    with Image.open(tmp_path / "a.webp") as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (3, (33, 33), 0)
        assert np.asarray(file.convert("RGBA"))[0, 0, 3] == 0


def test_two_cameras_and_no_image_are_named(scene, tmp_path):
    with pytest.raises(ValueError, match="one camera, got 2"):
        render_picture(scene, ORBIT.view(torch.zeros(2), 0.0, 8, 8))
    with pytest.raises(ValueError, match="there is no image"):
        write_webp([], tmp_path / "a.webp", 10)
