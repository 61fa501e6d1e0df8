"""Scores of a scene against a truth that is a box with a red front."""

import numpy as np
import pytest
import torch
import trimesh
from options import export_settings, option
from pipelines import save_clip_model

from dreamfusion.evaluation import clip_scores as judging
from dreamfusion.evaluation import scene as scoring
from dreamfusion.guidance.clip import ClipPrior
from dreamfusion.truth.store import Truth
from dreamfusion.types import Mesh


def figure(front=(0.9, 0.1, 0.1), back=(0.1, 0.1, 0.8), turned=0):
    """A box of four colours, by vertex of its unshared faces, turned by quarter turns around the vertical axis."""
    box = trimesh.creation.box((1.0, 1.2, 0.7))
    vertices, normals = box.vertices[box.faces.reshape(-1)], np.repeat(box.face_normals, 3, axis=0)
    colors = np.full((36, 3), 0.6)
    colors[normals[:, 2] > 0.5], colors[normals[:, 2] < -0.5], colors[normals[:, 0] > 0.5] = front, back, 0.2
    for _ in range(turned):
        vertices, normals = (np.stack([a[:, 2], a[:, 1], -a[:, 0]], axis=1) for a in (vertices, normals))
    faces = np.arange(36).reshape(-1, 3)
    return Mesh(
        *(a.astype(np.float32) for a in (vertices,)), faces, normals.astype(np.float32), colors.astype(np.float32)
    )


@pytest.fixture(scope="module")
def rings():
    ring = scoring.ring_cameras(option("camera/orbit"))
    return lambda mesh: scoring.mesh_pictures(mesh, ring)


def test_a_scene_that_is_the_truth_faces_the_right_way_and_has_one_face(rings):
    assert scoring.side_scores(rings(figure()), rings(figure())) == {"azimuth_error": 0.0, "second_face_rate": 0.0}


@pytest.mark.parametrize(("turns", "degrees"), [(1, 90.0), (2, 180.0), (3, 90.0)])
def test_a_turned_scene_has_that_azimuth_error_and_still_one_face(rings, turns, degrees):
    found = scoring.side_scores(rings(figure(turned=turns)), rings(figure()))
    assert found == {"azimuth_error": degrees, "second_face_rate": 0.0}


def test_a_front_that_is_seen_again_from_behind_is_a_second_face(rings):
    janus = scoring.side_scores(rings(figure(back=(0.9, 0.1, 0.1))), rings(figure()))
    assert janus["second_face_rate"] > 0.7


def test_what_has_no_front_has_no_rate_of_second_faces(rings):
    same = rings(figure(back=(0.9, 0.1, 0.1)))
    assert "second_face_rate" not in scoring.side_scores(same, same)


def test_of_equally_good_turns_the_smallest_is_the_error(rings):
    """A box whose opposite sides are alike looks the same after half a turn."""
    plain = figure(front=(0.9, 0.1, 0.1), back=(0.9, 0.1, 0.1))
    alike = Mesh(plain.vertices, plain.faces, plain.normals, np.where(plain.normals[:, :1] > 0.5, 0.6, plain.colors))
    seen = rings(alike)
    assert scoring.side_scores(seen, seen) == {"azimuth_error": 0.0}
    darker = seen * np.array([0.95, 0.95, 0.95, 1.0], np.float32)  # no turn is exact
    turned = np.roll(darker, 8, axis=0)  # of 24: 120 degrees, or 60 the other way
    assert scoring.side_scores(turned, seen) == {"azimuth_error": 60.0}


def test_which_sides_have_a_score_depends_on_the_truth_alone(rings):
    real = rings(figure())
    poor = np.broadcast_to(1 - real.mean(axis=0), real.shape)  # the same from all sides, and far from the truth
    assert scoring.side_scores(poor, real).keys() == scoring.side_scores(real, real).keys()
    around = np.broadcast_to(real[:1], real.shape)
    assert scoring.side_scores(real, around) == {}


def test_a_translucent_scene_shows_its_albedo_wherever_it_has_opacity(ball, make_scene):
    scene = make_scene(ball(density=1.5, size=0.7, color=(0.8, 0.3, 0.1))).eval()
    seen = scoring.scene_pictures(scene, scoring.ring_cameras(option("camera/orbit")).one(0))
    some = seen[..., 3] > 0.01
    assert seen.shape == (1, 64, 64, 4) and some.sum() > 500 and seen[..., 3].max() < 0.95
    np.testing.assert_allclose(seen[some][:, :3], np.broadcast_to([0.8, 0.3, 0.1], (some.sum(), 3)), atol=1e-4)


def test_the_structural_similarity_of_even_pictures_is_that_of_their_means():
    """(2 a b + C) / (a^2 + b^2 + C) with C = 0.01^2 for values in [0, 1] (Wang et al. 2004, Eq. 6)."""
    pictures = [np.full((1, 16, 16, 4), grey, np.float32) for grey in (0.02, 0.04)]
    for one in pictures:
        one[..., 3] = 1.0
    assert scoring.picture_scores(*pictures)["truth_ssim"] == pytest.approx(0.0017 / 0.0021, rel=1e-3)


def test_the_error_of_the_normals_is_the_mean_angle_between_the_surfaces():
    cameras = scoring.ring_cameras(option("camera/orbit"))
    assert scoring.normal_error(figure(), figure(), cameras) == pytest.approx(0, abs=0.1)
    tilted = figure()
    turn = trimesh.transformations.rotation_matrix(np.radians(20), (0, 1, 0))[:3, :3]  # of the normals alone
    tilted = Mesh(tilted.vertices, tilted.faces, (tilted.normals @ turn.T).astype(np.float32), tilted.colors)
    sides = 18.0, 20.0  # those of the top do not turn, and are seen a little
    assert sides[0] < scoring.normal_error(tilted, figure(), cameras) < sides[1]


def revolved(*profile):
    """The closed surface that a line of (radius, height) from axis to axis makes, with y up."""
    body = trimesh.creation.revolve(profile).apply_transform(
        trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0))
    )
    assert body.is_watertight and body.volume > 0
    return Mesh(body.vertices.astype(np.float32), np.asarray(body.faces))


def test_whether_a_cup_upside_down_is_hollow_does_not_count_for_cameras_that_do_not_look_into_it():
    block = revolved((0, -0.4), (0.5, -0.4), (0.5, 0.4), (0, 0.4))
    cup = revolved((0, 0.34), (0.44, 0.34), (0.44, -0.4), (0.5, -0.4), (0.5, 0.4), (0, 0.4))
    above, below = (scoring.training_views(option("camera/orbit", elevation=[low, 75])) for low in (0, -80))
    found = scoring.shape_scores(block, cup, above)
    assert found["volume_iou"] < 0.35 < 0.99 < found["volume_iou_seen"]
    into = scoring.shape_scores(block, cup, below)
    assert into["volume_iou_seen"] == pytest.approx(found["volume_iou"], abs=0.02)


def test_equal_pictures_score_best_and_a_grey_offset_has_its_psnr():
    real = np.random.default_rng(0).random((2, 32, 32, 4)).astype(np.float32) * 0.8
    real[..., 3] = 1.0
    best = scoring.picture_scores(real, real)
    assert best["truth_silhouette_iou"] == 1 and best["truth_psnr"] == 100 and best["truth_color_error"] == 0
    off = scoring.picture_scores(real + np.array([0.1, 0.1, 0.1, 0], np.float32), real)
    assert off["truth_psnr"] == pytest.approx(20.0, abs=0.01)
    assert 0 < off["truth_ssim"] < 1 and off["truth_color_error"] > 1


def test_a_ball_scores_as_the_ball_it_is_and_without_a_truth_has_no_true_scores(ball, make_scene, monkeypatch):
    for name, value in {"SIZE": 32, "HELD_OUT": 8, "RING": 8}.items():
        monkeypatch.setattr(scoring, name, value)
    scene, orbit = make_scene(ball(density=60.0, size=0.6)).eval(), option("camera/orbit")
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    color = np.tile(np.array([0.8, 0.3, 0.1], np.float32), (len(sphere.vertices), 1))
    truth = Mesh(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int64), colors=color)
    export = export_settings(resolution=32, blur=0.0, faces=0)
    found = scoring.evaluate_scene(scene, orbit, export, Truth("ball", truth, np.zeros((24, 8, 8, 4), np.uint8), {}))
    assert found.scores["volume_iou"] > 0.9 and found.scores["fscore_2"] > 0.9
    assert found.scores["truth_psnr"] > 25 and found.scores["truth_silhouette_iou"] > 0.95
    assert "azimuth_error" not in found.scores and "second_face_rate" not in found.scores
    assert found.sheet.shape == (2 * 32, scoring.SHOWN * 32, 3)
    alone = scoring.evaluate_scene(scene, orbit, export, None)
    assert alone.scores["watertight"] == 1 and "volume_iou" not in alone.scores


def test_clip_tells_captions_apart_by_the_largest_cosine(ball, make_scene, tmp_path, monkeypatch):
    clip = ClipPrior(str(save_clip_model(tmp_path, 16)), None, 1.0, "uniform")
    captions = ["a cat", "a dog", "a bus"]
    texts = clip.encode_text(captions).pooled
    scene, orbit = make_scene(ball(density=60.0)).eval(), option("camera/orbit")
    monkeypatch.setattr(judging, "VIEWS", 2)
    found = [judging.clip_scores(clip, scene, orbit, text, captions, texts) for text in captions]
    assert sum(one["r_precision"] for one in found) == pytest.approx(1)  # each view suits one caption best
    assert sum(one["r_precision_geometry"] for one in found) == pytest.approx(1)
    best = max(found, key=lambda one: one["clip_score"])
    assert best["r_precision"] == max(one["r_precision"] for one in found)
    assert all(-100 <= one["clip_score"] <= 100 for one in found)
    assert torch.isfinite(texts).all()


def ball_mesh(radius):
    body = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Mesh(body.vertices.astype(np.float32), np.asarray(body.faces, np.int64))


def test_concentric_balls_have_the_scores_of_their_radii():
    cameras = scoring.training_views(option("camera/orbit"))
    found = scoring.shape_scores(ball_mesh(0.585), ball_mesh(0.6), cameras)
    # 0.015 apart, and a little more between points; the thresholds are 0.012 and 0.024, shares of the diameter 1.2.
    assert (found["fscore_1"], found["fscore_2"]) == (0.0, pytest.approx(1.0, abs=0.02))
    assert 0.015 < found["chamfer"] < 0.019
    assert found["volume_iou"] == pytest.approx(0.975**3, abs=0.01)
    assert found["volume_iou_aligned"] > 0.98  # after the scale
    assert found["volume_iou_seen"] == pytest.approx(found["volume_iou"], abs=0.01)


def test_the_scores_of_pictures_are_those_of_their_definitions():
    seen, real = np.zeros((1, 16, 16, 4), np.float32), np.zeros((1, 16, 16, 4), np.float32)
    seen[0, :, :12] = (1.0, 1.0, 1.0, 1.0)  # white over white: only the outline tells
    real[0, :, 4:] = (1.0, 1.0, 1.0, 1.0)
    found = scoring.picture_scores(seen, real)
    assert found["truth_silhouette_iou"] == pytest.approx(8 / 16)
    assert (found["truth_psnr"], found["truth_color_error"]) == (100.0, 0.0)
    assert found["truth_ssim"] == pytest.approx(1.0)
    real[0, :, 4:8, :3] = 0.0  # black where both are solid in half of their common part, a quarter of the picture
    found = scoring.picture_scores(seen, real)
    assert found["truth_psnr"] == pytest.approx(-10 * np.log10(0.25), rel=1e-4)
    assert found["truth_color_error"] == pytest.approx(50.0, rel=1e-3)  # L is 100 and 0
    apart = scoring.picture_scores(seen * 0, real)
    assert (apart["truth_silhouette_iou"], apart["truth_color_error"]) == (0.0, 100.0)


def test_a_picture_over_grey_is_its_colour_by_its_opacity_and_the_rest_of_the_grey():
    pixels = np.array([[[[0.8, 0.4, 0.0, 0.25]]]])
    assert scoring.over(pixels, 0.5)[0, 0, 0] == pytest.approx([0.575, 0.475, 0.375])


def test_held_out_cameras_stand_evenly_at_the_heights_in_turn_and_the_ring_begins_at_the_front():
    orbit = option("camera/orbit")
    held, ring = scoring.held_out_cameras(orbit), scoring.ring_cameras(orbit)
    assert held.azimuth.tolist() == pytest.approx([11.25 * (i + 0.5) for i in range(32)], abs=1e-3)
    assert held.elevation.tolist() == pytest.approx([0.0, 20.0, 40.0, 60.0] * 8, abs=1e-3)
    assert (held.height, held.width) == (64, 64)
    assert ring.azimuth.tolist() == pytest.approx([15.0 * i for i in range(24)], abs=1e-3)
    assert ring.elevation.tolist() == pytest.approx([15.0] * 24, abs=1e-3)
    views = scoring.training_views(option("camera/orbit", elevation=[-20, 60]))
    assert sorted({round(e, 2) for e in views.elevation.tolist()}) == [-20, 0, 20, 40, 60]
    assert torch.diff(views.azimuth.view(5, 16) % 360, dim=1).remainder(360).flatten().tolist() == pytest.approx(
        [22.5 * (1 + 1 / 80)] * 75, abs=1e-2
    )
    assert len({round(a, 2) for a in views.azimuth.tolist()}) == 80  # no azimuth twice
