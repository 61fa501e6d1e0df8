"""CLIP's opinion of a scene, for prompts without a truth: CLIP score and R-Precision (Poole et al. 2022, Sec. 4).

Any CLIP of transformers; the number depends on which, so scores are stored with its name. Letters: B views, C captions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.camera.orbit import Orbit, around
from dreamfusion.guidance.clip import ClipPrior
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import render_views
from dreamfusion.scene.shading import ALBEDO, TEXTURELESS

VIEWS, ELEVATION = 8, 30.0  # azimuths; degrees, as published


@torch.no_grad()
def clip_scores(
    clip: ClipPrior, scene: Scene, orbit: Orbit, prompt: str, captions: Sequence[str], texts: Tensor
) -> dict[str, float]:
    """Mean cosine with the prompt (times 100), and the share of views that the prompt suits best of all captions.

    Args:
        clip: the model.
        scene, orbit: rendered from VIEWS azimuths, in colour and as a white shaded surface ("geometry").
        prompt: one of `captions`.
        captions: C texts to tell apart.
        texts: their unit embeddings (C, D).
    """
    cameras = orbit.view(around(VIEWS, 1), ELEVATION, clip.resolution, clip.resolution)
    own, scores = list(captions).index(prompt), {}
    for kind, shading in (("", ALBEDO), ("_geometry", TEXTURELESS)):
        images = render_views(scene, cameras, shading, with_normal=shading.needs_normal).rgb
        cosine = clip.encode_image(images.to(texts)).flatten(1) @ texts.T  # (B, C)
        scores[f"clip_score{kind}"] = 100 * float(cosine[:, own].mean())
        scores[f"r_precision{kind}"] = float((cosine.argmax(dim=1) == own).float().mean())
    return scores
