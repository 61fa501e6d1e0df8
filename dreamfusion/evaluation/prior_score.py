"""How well a prior finds the text in the renders: a score of a run that needs no other network than the prior itself.

Letters of guidance/prior.py: z = alpha x + sigma eps is the noisy render.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.camera.orbit import Orbit
from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.guidance.prior import Prior, null_branch, text_branch
from dreamfusion.image import resize
from dreamfusion.scene.shading import ALBEDO
from dreamfusion.system import DreamFusion, with_appearance
from dreamfusion.types import Conditioning

ELEVATION = 15.0  # degrees, of the views that are shown
LEVELS = (0.3, 0.5, 0.7)  # timesteps as fractions of the prior's T: the middle, where the text matters most
SEED = 0  # of the noise: the same for every run, so that scores differ by the renders alone


@torch.no_grad()
def prior_score(system: DreamFusion, orbit: Orbit, views: int) -> float:
    """`text_score` of `views` renders around the scene, at its own prior's size and with its own view texts."""
    prior = system.distillation.prior
    device = prior.alphas_cumprod.device
    system.to(device)  # Lightning takes it to the CPU after training
    azimuth = torch.arange(views) * (360 / views)
    cameras = orbit.view(azimuth, ELEVATION, prior.resolution, prior.resolution).to(device)
    training = system.training
    system.eval()
    try:
        render = system.scene.render(cameras, ALBEDO)
    finally:
        system.train(training)
    conditioning = system.prompting.condition(system.text_table.to(device), cameras)
    conditioning = with_appearance(conditioning, render, ALBEDO)
    return text_score(prior, render.rgb, conditioning)


@torch.no_grad()
def text_score(prior: Prior, rgb: Tensor, conditioning: Conditioning, levels: Sequence[float] = LEVELS) -> float:
    """The share of the unconditional prediction's error that the text takes away, over B images and noise levels.

    score = 1 - sum ||eps_text - eps||^2 / sum ||eps_null - eps||^2. 0: the text says nothing about the images; the
    nearer to 1, the better it explains them; negative: without it the prior understands them better. What is compared
    are the two denoising errors whose difference estimates log p(x | text) - log p(x) (Li et al. 2023, "Your Diffusion
    Model is Secretly a Zero-Shot Classifier", Eq. 6).

    Args:
        prior: where the images are shown; on the device of `rgb`.
        rgb: (B, 3, H, W) in [0, 1].
        conditioning: of the B images.
        levels: timesteps, fractions of T in [0, 1).
    """
    generator = torch.Generator().manual_seed(SEED)
    clean = prior.encode_image(resize(rgb.float(), prior.resolution))
    branches = [text_branch(conditioning), null_branch(conditioning)]
    with_text = without = torch.zeros((), device=clean.device)
    for level in levels:
        timestep = torch.full((len(rgb),), int(level * len(prior.alphas_cumprod)), device=clean.device)
        alpha, sigma = alpha_sigma(prior.alphas_cumprod[timestep])
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noise_text, noise_null = prior.predict(alpha * clean + sigma * noise, timestep, branches)
        with_text = with_text + (noise_text - noise).square().sum()
        without = without + (noise_null - noise).square().sum()
    return float(1 - with_text / without.clamp(min=1e-12))
