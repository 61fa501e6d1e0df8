"""Scores of samplers with known results: stored renders, and renders with a deliberate mistake."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from sets import load_set, write_set

from dreamfusion.cli.resolvers import register
from dreamfusion.error import UserError
from dreamfusion.evaluation.pocket_prior import Evaluation, Views, plain_picture, views_of
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.batches import Appearance, RenderBatches
from dreamfusion.pocket.data.captions import recolor
from dreamfusion.pocket.model.words import COLORS
from dreamfusion.pocket.training.card import CARD_FILE, add_evidence

CONF = Path(__file__).parents[2] / "conf"
NAMES = ("red ball", "box", "drum", "crate", "shelf", "shelf")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    renders = load_set(write_set(tmp_path_factory.mktemp("renders") / "set", views=96, names=NAMES))
    return RenderBatches(renders, 1, 0, appearance=Appearance(0, 0, 0.35, 0.35))


class Painter:
    """Sampler that shows the named model from the view nearest to the camera, optionally with a mistake."""

    def __init__(self, data, wrong_model=False, wrong_side=False, wrong_color=False):
        self.data = data
        self.wrong_model, self.wrong_side, self.wrong_color = wrong_model, wrong_side, wrong_color
        self.prompts = []

    def __call__(self, prompts, views):
        self.prompts += prompts
        azimuth = views.azimuth + 180 * self.wrong_side
        positions = Views(azimuth, views.elevation, views.distance).positions()
        return np.stack([self.paint(p, position) for p, position in zip(prompts, positions, strict=True)])

    def paint(self, prompt, position):
        renders = self.data.renders
        model = next(i for i, name in enumerate(NAMES) if prompt.endswith(name))
        model = (model + self.wrong_model) % 4
        stored = views_of(renders, model).positions()
        view = int(np.linalg.norm(stored - position, axis=1).argmin())
        image = plain_picture(renders, model, view, np.full(3, 0.8, dtype=np.float32))
        color = next((word for word in prompt.split()[:2] if word in COLORS), None)
        if color is None or prompt.endswith("red ball"):
            return image
        alpha = renders.alpha[model, view].astype(np.float32)[..., None] / 255
        shown = {"red": "green"}.get(color, "red") if self.wrong_color else color
        tensors = (torch.tensor(values, dtype=torch.float32)[None] for values in (image, alpha, COLORS[shown]))
        return recolor(*tensors)[0].numpy() * alpha + 0.8 * (1 - alpha)


def test_only_nouns_with_exactly_one_model_are_prompts(data):
    painter = Painter(data)
    Evaluation(data, painter, seed=0).retrieval(100)
    assert sorted(painter.prompts) == ["a box", "a crate", "a drum", "a red ball"]


def test_a_perfect_sampler_has_perfect_scores(data):
    evaluation = Evaluation(data, Painter(data), seed=0)
    retrieval = evaluation.retrieval(4)
    assert retrieval.top(1) == retrieval.ceiling(1) == 1.0
    assert len(retrieval.triplets) == 12
    for sample, nearest, right in zip(*(retrieval.triplets[i::3] for i in range(3)), strict=True):
        np.testing.assert_array_equal(nearest, right)
        np.testing.assert_allclose(sample, right, atol=1e-5)  # the view of its camera, over its background
    assert evaluation.colors(3).share == 1.0
    assert evaluation.azimuth(4).share == 1.0


def test_a_plain_picture_is_the_albedo_by_its_opacity_over_the_background():
    albedo, alpha = np.zeros((1, 2, 1, 2, 3), np.uint8), np.zeros((1, 2, 1, 2), np.uint8)
    albedo[0, 1], alpha[0, 1] = [[255, 51, 0], [255, 51, 0]], [[255, 51]]
    picture = plain_picture(SimpleNamespace(albedo=albedo, alpha=alpha), 0, 1, np.array([0.5, 0.5, 1.0]))
    np.testing.assert_allclose(picture, [[[1.0, 0.2, 0.0], [0.6, 0.44, 0.8]]], atol=1e-6)


def test_a_sampler_that_shows_other_models_is_never_nearest(data):
    retrieval = Evaluation(data, Painter(data, wrong_model=True), seed=0).retrieval(4)
    assert retrieval.top(1) == 0.0 and retrieval.top(4) == 1.0


def test_a_sampler_with_wrong_colours_is_never_correct(data):
    colors = Evaluation(data, Painter(data, wrong_color=True), seed=0).colors(3)
    assert colors.share == 0.0
    assert [text.split()[0] for text in colors.prompts] == list(COLORS)[:3]
    assert not any("red ball" in text for text in colors.prompts)  # its name contains a colour


def test_a_sampler_that_shows_the_back_is_never_correct_and_balls_have_no_front(data):
    accuracy = Evaluation(data, Painter(data, wrong_side=True), seed=0).azimuth(4)
    assert sorted(accuracy.prompts) == ["box", "crate", "drum"]
    assert accuracy.share == 0.0 and accuracy.ceiling == 1.0


def test_the_prompts_are_a_function_of_the_seed(data):
    first, again, other = (Evaluation(data, Painter(data), seed).retrieval(3).nouns for seed in (0, 0, 1))
    assert first == again != other


def evaluate(folder, renders, *overrides):
    register()
    choices = [f"mode.folder={folder}", f"mode.renders={renders}", "mode.names=null", "mode.validation_size=4"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["mode=evaluate_prior", *choices, *overrides])
    return instantiate(cfg.mode)(cfg)


def test_the_mode_writes_scores_and_images_of_the_packaged_weights(tmp_path, caplog):
    renders = write_set(tmp_path / "set", views=96, names=NAMES)
    few = ["mode.nouns=5", "mode.colors=2", "mode.sides=1", "mode.steps=2", "mode.batch_size=4"]
    with caplog.at_level("INFO"):
        path = evaluate(tmp_path / "out", renders, *few)
    report = json.loads(path.read_text())
    assert report["weights"] == "package" and report["models"] == 6 and report["names"] == 5
    assert all(0 < loss < 1 for loss in report["loss"].values())
    assert report["retrieval"]["nouns"] == 4 and set(report["retrieval"]["rank"].values()) <= set(range(4))
    assert report["color"]["asked"] == 2 and report["azimuth"]["asked"] == 1
    with Image.open(tmp_path / "out" / "retrieval.png") as sheet:
        assert sheet.size == (12 * 64 + 11 * 2, 64)  # four nouns, three pictures each
    assert "| model among the nearest 1 of 4 |" in caplog.text


def test_scores_without_objects_to_ask_about_are_left_out(tmp_path, caplog):
    renders = write_set(tmp_path / "set", views=96, names=NAMES[:1])  # a ball has no front, its name a colour
    with caplog.at_level("INFO"):
        path = evaluate(tmp_path / "out", renders, "mode.nouns=1", "mode.steps=2", "mode.batch_size=4")
    report = json.loads(path.read_text())
    assert report["color"] == report["azimuth"] == {"asked": 0, "right": {}}
    assert "colour" not in caplog.text and "nearest 1 of 1" in caplog.text


def test_evidence_replaces_older_evidence_in_the_card(tmp_path):
    card = tmp_path / CARD_FILE
    card.write_text("# Weights\n")
    for found in ("| 50 % |", "| 60 % |"):
        add_evidence(tmp_path, found)
    assert card.read_text().startswith("# Weights\n\n## Held-out evidence\n")
    assert card.read_text().endswith("\n\n| 60 % |\n")
    assert "50 %" not in card.read_text()


def test_evaluation_errors_say_what_to_do(tmp_path):
    for part in ("unet", "sketch", "scheduler"):
        (tmp_path / part).symlink_to(WEIGHTS / part)
    with pytest.raises(UserError, match=r"mode.card=true, but there is no model card .*README.md; mode=pretrain"):
        evaluate(tmp_path / "out", tmp_path, "mode.card=true", f"guidance.weights={tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"is not a render set: items.json is missing; .*mode=pretrain"):
        evaluate(tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match=r"mode.steps is 0; it must be a whole number of at least 1"):
        evaluate(tmp_path / "out", tmp_path, "mode.steps=0")
