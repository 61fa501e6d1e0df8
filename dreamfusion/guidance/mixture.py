"""A prior whose distribution is known (`guidance=mixture`): pictures of one colour, without a network.

p(x | text) is a mixture of Gaussians N(mu_k, s^2 I) over whole images, with equal shares of the colours that the text
names, or of all colours if it names none. The optimal prediction has a closed form:

    x0*(z, t) = (alpha s^2 z + sigma^2 sum_k r_k mu_k) / v,   r_k proportional to exp(-|z - alpha mu_k|^2 / 2v),
    v = alpha^2 s^2 + sigma^2

so a method's gradient, its bias to single modes and its diversity can be compared with the truth.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.guidance.prior import PixelSpace
from dreamfusion.types import Branch, TextEmbedding

log = logging.getLogger(__name__)


class MixturePrior(PixelSpace):
    """Images (3, r, r) in [-1, 1] of one colour with independent noise in each pixel."""

    name, views, sample_scale = "mixture", 1, 1.0

    def __init__(
        self,
        colors: Mapping[str, Sequence[float]],
        deviation: float,
        resolution: int,
        guidance_scale: float,
        weighting: str,
    ) -> None:
        """Check the colours.

        Args:
            colors: name and sRGB colour in [0, 1] of each component.
            deviation: s, in units of the images' range [-1, 1].
            resolution: side of the images, pixels.
            guidance_scale, weighting: recommended values for distillation, see `Prior`.

        Raises:
            ValueError: no colours, or a deviation that is not above 0.
        """
        if not colors or deviation <= 0:
            raise ValueError(
                f"guidance.colors has {len(colors)} colours and guidance.deviation is {deviation}; a mixture needs at "
                "least one colour, and a deviation above 0"
            )
        self.colors = list(colors)
        self.means = torch.tensor([list(color) for color in colors.values()]) * 2 - 1  # (K, 3)
        self.deviation, self.resolution = deviation, resolution
        self.guidance_scale, self.weighting = guidance_scale, weighting
        self.alphas_cumprod = torch.linspace(0.01, 1.56, 1000, dtype=torch.float64).cos().square().float()

    def to(self, device: torch.device | str) -> Self:
        """Move in place; returns itself."""
        self.means, self.alphas_cumprod = self.means.to(device), self.alphas_cumprod.to(device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Log a warning if the prompt names no colour."""
        if not self._named(prompt):
            log.warning('"%s" names none of the mixture\'s colours: %s; it means all', prompt, ", ".join(self.colors))

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Shares of the K colours in each text: states (N, 1, K)."""
        named = [self._named(text) or self.colors for text in texts]
        shares = [[float(color in names) / len(names) for color in self.colors] for names in named]
        return TextEmbedding(torch.tensor(shares)[:, None], torch.ones(len(texts), 1, dtype=torch.bool))

    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`; cameras and appearance are ignored."""
        alpha, sigma = alpha_sigma(self.alphas_cumprod[timestep])
        variance = alpha**2 * self.deviation**2 + sigma**2
        centers = alpha[:, None] * self.means[None, :, :, None, None]  # (B, K, 3, 1, 1)
        distance = (noisy[:, None] - centers).square().flatten(2).sum(dim=2)  # (B, K)
        likelihood = -distance / (2 * variance.flatten(1))
        estimates = []
        for branch in branches:
            shares = (branch.text.states[:, 0].log() + likelihood).softmax(dim=1)
            mean = (shares @ self.means)[:, :, None, None]
            estimates.append((alpha * self.deviation**2 * noisy + sigma**2 * mean) / variance)
        return tuple(estimates)

    def _named(self, text: str) -> list[str]:
        return [color for color in self.colors if re.search(rf"\b{re.escape(color)}\b", text, re.IGNORECASE)]
