"""CLIP score and R-Precision of embeddings that are known."""

from types import SimpleNamespace

import pytest
import torch
from options import option

from dreamfusion.evaluation import clip_scores as judging
from dreamfusion.scene.shading import ALBEDO, TEXTURELESS

TEXTS = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])


def test_the_score_is_the_mean_cosine_and_the_precision_the_share_of_views_that_the_prompt_suits_best(monkeypatch):
    rendered = []

    def render_views(scene, cameras, shading, with_normal):
        rendered.append((cameras, shading, with_normal))
        return SimpleNamespace(rgb=torch.full((len(cameras), 3, 16, 16), float(len(rendered))))

    def encode_image(rgb):
        """Of the coloured views five are the prompt's, one another's and two the first's; of the white ones none."""
        rows = [1, 1, 1, 1, 1, 2, 0, 0] if rgb[0, 0, 0, 0] == 1 else [0, 2] * 4
        return TEXTS[rows][..., None, None]

    monkeypatch.setattr(judging, "render_views", render_views)
    clip = SimpleNamespace(resolution=16, encode_image=encode_image)
    found = judging.clip_scores(clip, None, option("camera/orbit"), "a dog", ["a cat", "a dog", "a bus"], TEXTS)
    assert found == {
        "clip_score": pytest.approx(100 * (5 + 0.6) / 8),
        "r_precision": 5 / 8,
        "clip_score_geometry": pytest.approx(100 * 4 * 0.6 / 8),
        "r_precision_geometry": 0.0,
    }
    assert [(shading, with_normal) for _, shading, with_normal in rendered] == [(ALBEDO, False), (TEXTURELESS, True)]
    for cameras, _, _ in rendered:
        assert cameras.azimuth.tolist() == pytest.approx([45.0 * i for i in range(8)], abs=1e-3)
        assert cameras.elevation.tolist() == pytest.approx([30.0] * 8, abs=1e-3)
        assert (cameras.height, cameras.width) == (16, 16)
