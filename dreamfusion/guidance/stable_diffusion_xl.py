"""Stable Diffusion XL (stage 11, `guidance=sdxl`): latents of 1024x1024 images, two text encoders, pooled text.

Podell et al. 2023. Tested with small random networks of the same classes, not with published weights.
"""

from collections.abc import Sequence
from typing import Any

import torch

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.ops.constants import constant
from dreamfusion.types import Branch, TextEmbedding


class StableDiffusionXLPrior(DiffusersPrior):
    """A latent diffusion model that is also conditioned on pooled text and on sizes.

    Its autoencoder overflows in float16; the default `vae_dtype` is float32.
    """

    name = "sdxl"
    models = ("stabilityai/stable-diffusion-xl-base-1.0",)
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipeline = "StableDiffusionXLPipeline"
    sample_scale = 5.0  # default of diffusers
    overflows = True

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts: the penultimate states of both encoders (K, 77, 768 + 1280), pooled (K, 1280).

        The empty text is zeros, as in training (diffusers' `force_zeros_for_empty_prompt`).
        """
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        first = self._encode(CLIPTokenizer, CLIPTextModel, texts, layer=-2)
        second = self._encode(CLIPTokenizer, CLIPTextModelWithProjection, texts, "_2", layer=-2)
        given = torch.tensor([[float(bool(text))] for text in texts], device=second.states.device)
        assert second.pooled is not None
        states = torch.cat([first.states, second.states], dim=-1)
        return TextEmbedding(states * given[..., None], second.mask, second.pooled * given)

    def _conditions(self, text: TextEmbedding, branches: Sequence[Branch], dtype: torch.dtype) -> dict[str, Any]:
        """Pooled text, and height and width of the original image, top left corner of the crop, height and width.

        The original is as large as in training, whatever `resolution` is: a smaller one would ask for a blurred image.
        """
        assert text.pooled is not None
        sizes = (*[self.trained_resolution] * 2, 0, 0, *[self.resolution] * 2)
        time_ids = constant(sizes, text.pooled.device, dtype).expand(len(text), 6)
        return {"added_cond_kwargs": {"text_embeds": text.pooled.to(dtype), "time_ids": time_ids}}
