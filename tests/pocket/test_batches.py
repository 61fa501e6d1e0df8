import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from sets import load_set, write_set

from dreamfusion.pocket.data.batches import Appearance, MixedBatches, RenderBatches, lambertian
from dreamfusion.pocket.data.names import subject_names
from dreamfusion.pocket.model.denoiser import camera_features
from dreamfusion.pocket.model.words import COLORS

PLAIN = Appearance(recolored=0, textureless=0, lambertian=0, white_background=1)


@pytest.fixture(scope="module")
def renders(renders_folder):
    return load_set(renders_folder)


def pixels(batch):
    return (batch.images.permute(0, 2, 3, 1).numpy() + 1) / 2


def test_a_batch_is_a_function_of_seed_and_step(renders):
    data = RenderBatches(renders, 8, seed=3)
    data.start_step = 5
    resumed = next(iter(data))
    again = RenderBatches(renders, 8, seed=3).draw(5)
    assert torch.equal(resumed.images, again.images) and resumed.captions == again.captions
    for other in (RenderBatches(renders, 8, seed=4).draw(5), data.draw(6)):
        assert not torch.equal(other.images, again.images)


def test_every_second_batch_is_fine_whatever_the_step_it_begins_from(renders, tmp_path):
    coarse = RenderBatches(renders, 8, seed=3)
    fine = RenderBatches(load_set(write_set(tmp_path / "fine", size=128)), 4, seed=3)
    coarse.start_step = 5
    drawn = list(islice(MixedBatches(coarse, fine, 2), 3))
    assert [tuple(batch.images.shape) for batch in drawn] == [(4, 3, 128, 128), (8, 3, 64, 64), (4, 3, 128, 128)]
    assert torch.equal(drawn[0].images, fine.draw(5).images) and torch.equal(drawn[1].images, coarse.draw(6).images)
    later = [batch.images.shape[-1] for batch in islice(MixedBatches(coarse, fine, 2, begin=6), 5)]
    assert later == [64, 64, 128, 64, 128]
    others = RenderBatches(renders, 4, seed=3, names={"cat": "cat"})
    with pytest.raises(ValueError, match="other models"):
        MixedBatches(coarse, others, 2)


def test_training_never_samples_held_out_views_and_validation_only_those(renders):
    data = RenderBatches(renders, 64, seed=0, held_out=4)
    sampled = torch.cat([data.draw(step).camera for step in range(20)])
    everywhere = [torch.from_numpy(np.array(a)) for a in (renders.azimuth, renders.elevation, renders.distance)]
    kept = camera_features(*(a[:, -4:].flatten() for a in everywhere))
    trained = camera_features(*(a[:, :-4].flatten() for a in everywhere))
    assert distances(sampled, kept).min() > 1e-4
    assert distances(trained, sampled).min(dim=1).values.max() < 1e-5  # all other views are sampled
    validation = data.validation(64).camera
    assert distances(validation, kept).min(dim=1).values.max() < 1e-5
    assert torch.equal(data.validation(64).images, data.validation(64).images)


def distances(one, other):
    """Pairwise distances of camera features without the appearance."""
    return torch.cdist(
        one[:, :-2], other[:, :-2], compute_mode="donot_use_mm_for_euclid_dist"
    )  # exact where they are equal


def test_a_names_share_grows_with_its_models_and_its_emphasis(renders):
    shares = name_shares(RenderBatches(renders, 8, 0, rarity=0.6))
    two = 2**0.4  # count^(1 - rarity)
    assert shares == pytest.approx({"red ball": 1 / (2 + two), "striped box": two / (2 + two), "cat": 1 / (2 + two)})
    even = name_shares(RenderBatches(renders, 8, 0, rarity=1.0, emphasis={"cat": 2.0}))
    assert even == pytest.approx({"red ball": 0.25, "striped box": 0.25, "cat": 0.5})


def name_shares(data):
    shares = dict.fromkeys(data.names, 0.0)
    for model, probability in zip(data.models, data.probability, strict=True):
        shares[data.names_by_model[model]] += probability
    return shares


def test_only_wanted_names_are_learned_under_the_name_they_are_given(renders):
    names = {"striped box": "box", "cat": "cat", "dragon": "dragon"}
    data = RenderBatches(renders, 64, 0, names, appearance=PLAIN)
    assert data.names == ["box", "cat"]
    words = {caption.split(",")[0].removeprefix("a ") for caption in data.draw(0).captions}
    assert words == {"box", "striped box", "cat"}
    with pytest.raises(ValueError, match="none of the 1 wanted names is among the 4 rendered models"):
        RenderBatches(renders, 8, 0, names={"dragon": "dragon"})


def test_a_number_selects_one_of_several_models_of_a_name(renders):
    assert subject_names(renders.items) == ["red ball", "striped box 1", "striped box 2", "cat"]
    data = RenderBatches(renders, 8, 0, names={"striped box 2": "box"})
    assert data.subjects == {"striped box 2": "box"} and data.models.tolist() == [2]


def test_of_several_models_the_first_one_listed_is_sampled_most(renders):
    data = RenderBatches(renders, 8, 0, names={"striped box 2": "box", "striped box 1": "box"})
    assert list(data.subjects) == ["striped box 2", "striped box 1"]
    assert data.probability.tolist() == pytest.approx([1 / 1.7, 0.7 / 1.7])


def test_a_batch_has_the_model_index_of_its_images(renders):
    data = RenderBatches(renders, 8, 0, cameras_each=4)
    for batch in (data.draw(0), data.draw(1)):
        assert len(batch.subject) == 2
        for place, captions in zip(batch.subject, (batch.proxy_captions[:4], batch.proxy_captions[4:]), strict=True):
            name = list(data.subjects.values())[place]
            assert all(name in caption for caption in captions)


def test_proxy_targets_are_albedo_opacity_and_normals_without_background(renders):
    data = RenderBatches(renders, 4, 0, {"red ball": "red ball"}, appearance=PLAIN, cameras_each=4)
    batch = data.draw(0)
    rgba, normal = batch.proxy_targets.split([4, 3], dim=1)
    torch.testing.assert_close(rgba[:, :3] + 1 - rgba[:, 3:], (batch.images + 1) / 2)
    length = normal.norm(dim=1)
    torch.testing.assert_close(length, rgba[:, 3], atol=0.01, rtol=0)


def test_a_plain_picture_is_the_render_over_white(renders):
    data = RenderBatches(renders, 32, seed=0, names={"red ball": "red ball"}, appearance=PLAIN)
    picture = pixels(data.draw(0))[0]
    np.testing.assert_allclose(picture[32, 32], np.rint(np.array([0.8, 0.1, 0.1]) * 255) / 255, atol=1e-6)
    np.testing.assert_allclose(picture[0, 0], 1.0, atol=1e-6)


def test_lit_pixels_are_the_albedo_times_equation_7(renders):
    """Poole et al. 2022, Eq. 7: albedo * (diffuse * max(0, n . l) + ambient), with diffuse = 1 - ambient."""
    lit = RenderBatches(renders, 64, 0, {"red ball": "red ball"}, appearance=dataclasses.replace(PLAIN, lambertian=1))
    albedo = np.rint(np.array([0.8, 0.1, 0.1]) * 255) / 255
    factors = []
    for picture in pixels(lit.draw(0)):
        factor = picture[32, 32] / albedo
        np.testing.assert_allclose(factor, factor[0], rtol=1e-5)  # white light preserves the hue
        factors.append(factor[0])
    assert 0.1 <= min(factors) < 0.4 < 0.8 < max(factors) <= 1


def test_equation_7_with_a_known_light():
    normal = torch.tensor([[[[0.0, 0, 1], [0, 1, 0], [0, 0, -1]]]])
    light = torch.tensor([[0.0, 1, 1]]) / np.sqrt(2)
    shade = lambertian(normal, light, torch.tensor([0.2]))
    torch.testing.assert_close(shade[..., 0], torch.tensor([[[0.2 + 0.8 / 2**0.5, 0.2 + 0.8 / 2**0.5, 0.2]]]))


def test_images_of_half_the_size_are_means_of_the_visible_pixels(tmp_path):
    renders = load_set(write_set(tmp_path / "fine", size=128))
    with pytest.raises(ValueError, match="images of 32 pixels cannot be made from renders of 128"):
        RenderBatches(renders, 4, 0, size=32)
    half = RenderBatches(renders, 4, 0, appearance=PLAIN, size=64).draw(3)
    whole = RenderBatches(renders, 4, 0, appearance=PLAIN).draw(3)
    assert half.images.shape == (4, 3, 64, 64) and half.captions == whole.captions
    for small, large in ((half.images, whole.images), (half.proxy_targets[:, :4], whole.proxy_targets[:, :4])):
        torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(large, 2), atol=1e-4, rtol=0)
    length = half.proxy_targets[:, 4:].norm(dim=1)
    torch.testing.assert_close(length, half.proxy_targets[:, 3], atol=0.01, rtol=0)
    stored = RenderBatches(renders.halved(), 4, 0, appearance=PLAIN).draw(3)
    for one, other in ((stored.images, half.images), (stored.proxy_targets, half.proxy_targets)):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)  # rounded to bytes


def test_textureless_images_are_white_and_have_no_colour_word(renders):
    appearance = Appearance(recolored=1, textureless=1, lambertian=0, white_background=0)
    batch = RenderBatches(renders, 16, 0, {"cat": "cat"}, appearance=appearance).draw(0)
    assert not any(set(caption.replace(",", "").split()) & set(COLORS) for caption in batch.captions)
    middle = pixels(batch)[:, 32, 20]
    np.testing.assert_allclose(middle, middle[:, :1].repeat(3, axis=1), atol=1e-6)


def test_captions_of_recoloured_images_name_the_colour(renders):
    appearance = dataclasses.replace(PLAIN, recolored=1)
    batch = RenderBatches(renders, 32, 0, {"red ball": "ball"}, appearance=appearance).draw(0)
    for caption, picture in zip(batch.captions, pixels(batch), strict=True):
        word = next(word for word in caption.split() if word in COLORS)
        np.testing.assert_allclose(picture[32, 32], COLORS[word], atol=1e-5)


def test_backgrounds_are_white_in_the_given_share_and_else_grey_of_any_level(renders):
    appearance = Appearance(recolored=0, textureless=0, lambertian=0, white_background=0.3)
    data = RenderBatches(renders, 200, 0, appearance=appearance)
    corners = np.concatenate([pixels(data.draw(step))[:, 0, 0] for step in (0, 1)])
    np.testing.assert_allclose(corners, corners[:, :1].repeat(3, axis=1), atol=1e-6)
    level = corners[:, 0]
    assert (level == 1).mean() == pytest.approx(0.3, abs=0.06)
    assert np.histogram(level[level < 1], 4, (0, 1))[0].min() > 0.15 * (level < 1).sum()


def test_the_last_camera_features_are_the_background_and_the_kind_of_light(renders):
    """In the last two camera features: grey level in [-1, 1]; -1 textureless, 0 albedo alone, 1 Lambertian."""
    lights = (Appearance(0, 1, 0, 0.3), Appearance(0, 0, 0, 0.3), Appearance(0, 0, 1, 0.3))
    for light, appearance in enumerate(lights, start=-1):
        batch = RenderBatches(renders, 16, 0, appearance=appearance).draw(0)
        torch.testing.assert_close(batch.camera[:, -2], batch.images[:, 0, 0, 0], atol=1e-5, rtol=0)
        assert (batch.camera[:, -1] == light).all()


def test_a_single_picture_has_the_given_colour(renders):
    picture = RenderBatches(renders, 1, 0, appearance=PLAIN).picture(np.random.default_rng(0), 0, 3, "blue")
    np.testing.assert_allclose(picture[32, 32], COLORS["blue"], atol=1e-5)
    np.testing.assert_allclose(picture[0, 0], 1.0)
