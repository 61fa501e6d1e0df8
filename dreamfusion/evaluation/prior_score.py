"""Score how well renders match the text, with the prior itself and no other network.

Letters of guidance/prior.py: z = alpha x + sigma eps is the noisy render.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.camera.orbit import Orbit, around
from dreamfusion.diffusion.parameterization import alpha_sigma, noise_difference
from dreamfusion.guidance.prior import ImageScorer, Prior, empty_branch, text_branch
from dreamfusion.image import resize
from dreamfusion.scene.picture import render_views
from dreamfusion.scene.shading import ALBEDO
from dreamfusion.system import DreamFusion, with_appearance
from dreamfusion.types import Conditioning

ELEVATION = 15.0  # degrees, of the rendered views
LEVELS = (0.3, 0.5, 0.7)  # timesteps as fractions of the prior's T: the middle, where the text has the largest effect
PIXELS = 512**2  # encoded and predicted at once: one image of Stable Diffusion, 64 of the pocket prior
SEED = 0  # of the noise: the same for all runs, so that scores differ only by the renders


@torch.no_grad()
def prior_score(system: DreamFusion, orbit: Orbit, views: int) -> float:
    """`text_score` of `views` renders around the scene, at the prior's resolution and with the view texts."""
    prior = system.distillation.prior
    device = prior.alphas_cumprod.device
    system.to(device)  # Lightning moves the system to the CPU after training
    cameras = orbit.view(around(views, prior.views), ELEVATION, prior.resolution, prior.resolution).to(device)
    training = system.training
    system.eval()
    try:
        render = render_views(system.scene, cameras)
    finally:
        system.train(training)
    conditioning = system.prompting.condition(system.text_table.to(device), cameras)
    conditioning = with_appearance(conditioning, render, ALBEDO)
    return text_score(prior, render.rgb, conditioning)


@torch.no_grad()
def text_score(prior: Prior, rgb: Tensor, conditioning: Conditioning, levels: Sequence[float] = LEVELS) -> float:
    """The relative reduction of the unconditional prediction error by the text, over B images and noise levels.

    score = 1 - sum ||eps_text - eps||^2 / sum ||eps_empty - eps||^2, with ||eps_hat - eps|| = (alpha / sigma)
    ||x0_hat - x||. 1: the text explains the images fully; 0: not at all; negative: the text increases the error. A
    negative prompt plays no part, so that runs with and without one can be compared. The difference of the two errors
    estimates log p(x | text) - log p(x) (Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier",
    Eq. 6). CLIP's score is its mean cosine.

    Args:
        prior: on the device of `rgb`.
        rgb: (B, 3, H, W) in [0, 1].
        conditioning: of the B images.
        levels: timesteps, fractions of T in [0, 1).
    """
    images = resize(rgb.float(), prior.resolution)
    batch = prior.views * max(1, PIXELS // (prior.views * prior.resolution**2))
    parts = [slice(start, start + batch) for start in range(0, len(rgb), batch)]
    clean = torch.cat([prior.encode_image(images[part]) for part in parts])
    if isinstance(prior, ImageScorer):
        return float(prior.score(clean, conditioning).mean())
    generator, branches = torch.Generator().manual_seed(SEED), [text_branch(conditioning), empty_branch(conditioning)]
    with_text = without = torch.zeros((), device=clean.device)
    for level in levels:
        timestep = torch.full((len(rgb),), int(level * len(prior.alphas_cumprod)), device=clean.device)
        abar = prior.alphas_cumprod[timestep]
        alpha, sigma = alpha_sigma(abar)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy = alpha * clean + sigma * noise
        for part in parts:
            seen = [branch.rows(part) for branch in branches]
            text, empty = prior.denoise(noisy[part], timestep[part], seen)
            with_text = with_text + noise_difference(text, clean[part], abar[part]).square().sum()
            without = without + noise_difference(empty, clean[part], abar[part]).square().sum()
    return float(1 - with_text / without.clamp(min=1e-12))
