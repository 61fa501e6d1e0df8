"""Stable Diffusion 3 and 3.5 (stage 11, `guidance=sd3`): a rectified flow on latents of 1024x1024 images.

Esser et al. 2024. The flow is mapped to a variance-preserving process, see `diffusion/parameterization.py`. Tested with
small random networks of the same classes, not with published weights.
"""

from collections.abc import Sequence
from typing import Any

import torch

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.types import Branch, TextEmbedding

T5_TOKENS = 256  # default of diffusers


class StableDiffusion3Prior(DiffusersPrior):
    """A transformer on image and text tokens, with velocity prediction."""

    name = "sd3"
    # Gated: accept the licence on the hub, then `hf auth login`.
    models = ("stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3-medium-diffusers")
    parts: Sequence[str] = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    architecture = "SD3Transformer2DModel"
    time_embedding = "time_text_embed.timestep_embedder"
    pipeline = "StableDiffusion3Pipeline"
    sample_scale = 7.0  # default of diffusers

    def __init__(self, t5: bool, **settings: Any) -> None:
        """See `DiffusersPrior`.

        Args:
            t5: encode texts with the third encoder too, T5-XXL; False: zeros in its place, as in part of the training.
        """
        self._t5 = t5
        if t5:
            self.parts = (*self.parts, "text_encoder_3", "tokenizer_3")
        else:
            self.left_out = ("text_encoder_3", "tokenizer_3")
        super().__init__(channels_last=False, attention_slicing=False, tokens=None, prediction=None, **settings)

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts: penultimate states of both CLIPs, padded, then states of T5: (K, 77 + 256, 4096).

        Pooled: those of both CLIPs (K, 768 + 1280).
        """
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

        clips = [
            self._encode(CLIPTokenizer, CLIPTextModelWithProjection, texts, number, layer=-2) for number in ("", "_2")
        ]
        states = torch.cat([clip.states for clip in clips], dim=-1)
        states = torch.nn.functional.pad(states, (0, self._network.config.joint_attention_dim - states.shape[-1]))
        if self._t5:
            third = self._encode(T5Tokenizer, T5EncoderModel, texts, "_3", model_max_length=T5_TOKENS)
        else:
            silent = states.new_zeros(len(states), T5_TOKENS, states.shape[-1])
            third = TextEmbedding(silent, torch.zeros_like(silent[..., 0], dtype=torch.bool))
        pooled = torch.cat([clip.pooled for clip in clips if clip.pooled is not None], dim=-1)
        mask = torch.cat([clips[1].mask, third.mask], dim=1)
        return TextEmbedding(torch.cat([states, third.states], dim=1), mask, pooled)

    def _conditions(self, text: TextEmbedding, branches: Sequence[Branch], dtype: torch.dtype) -> dict[str, Any]:
        """Pooled text."""
        assert text.pooled is not None
        return {"pooled_projections": text.pooled.to(dtype)}
