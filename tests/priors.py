"""Priors with closed-form predictions."""

import torch

from dreamfusion.types import TextEmbedding


class GaussianPrior:
    """The exact prior N(mu, s^2) of every pixel, with mu = 0.5 for any text and 0 for the empty one.

    x0*(z, t) = (alpha s^2 z + sigma^2 mu) / (alpha^2 s^2 + sigma^2).
    """

    views = 1
    name, resolution, guidance_scale, weighting, sample_scale, pixel_space = "gaussian", 8, 2.0, "sigma2", 1.0, True

    def __init__(self, s=0.5):
        self.s = s
        self.alphas_cumprod = torch.cos(torch.linspace(0.01, 1.55, 1000, dtype=torch.float64)).square().float()

    def to(self, device):
        return self

    def warn_if_unknown(self, prompt):
        pass

    def encode_text(self, texts):
        mu = torch.tensor([0.5 if text else 0.0 for text in texts])
        return TextEmbedding(mu.view(-1, 1, 1), torch.ones(len(texts), 1, dtype=torch.bool))

    def encode_image(self, rgb):
        return rgb * 2 - 1

    def denoise(self, noisy, timestep, branches):
        abar = self.alphas_cumprod[timestep][:, None, None, None]
        means = [branch.text.states[:, :1, :, None] for branch in branches]
        return tuple(
            (abar.sqrt() * self.s**2 * noisy + (1 - abar) * mu) / (abar * self.s**2 + 1 - abar) for mu in means
        )

    def decode(self, latents):
        return latents / 2 + 0.5


class Bad(GaussianPrior):
    """A prior whose estimate is `change`d."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def denoise(self, noisy, timestep, branches):
        return tuple(self.change(one) for one in super().denoise(noisy, timestep, branches))
