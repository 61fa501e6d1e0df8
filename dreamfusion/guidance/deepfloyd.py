"""DeepFloyd IF, stage I (stage 11, `guidance=deepfloyd`): 64x64 pixels and T5 text, closest to the paper's prior.

Tested with small random networks of the same classes, not with published weights.
"""

from collections.abc import Sequence
from typing import Any

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.guidance.prior import PixelSpace
from dreamfusion.types import TextEmbedding

TOKENS = 77  # as in IF's training; T5 accepts more


class DeepFloydPrior(PixelSpace, DiffusersPrior):
    """A pixel-space diffusion model with a T5 text encoder."""

    name = "deepfloyd"
    # XL (4.3 billion parameters), L (0.9), M (0.4). Gated: accept the licence on the hub, then `hf auth login`.
    models = ("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd/IF-I-L-v1.0", "DeepFloyd/IF-I-M-v1.0")
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    sample_scale = 7.0  # default of diffusers, stage I

    def __init__(self, **settings: Any) -> None:
        """See `DiffusersPrior`.

        Raises:
            GuidanceError: the weights are not available.
        """
        super().__init__(
            vae=None, vae_dtype="float32", view_chunk=None, lora=None, tokens=None, prediction=None, **settings
        )

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts in lower case, as in training: (K, 77, D)."""
        from transformers import T5EncoderModel, T5Tokenizer

        texts = [text.lower().strip() for text in texts]
        return self._encode(T5Tokenizer, T5EncoderModel, texts, masked=True, model_max_length=TOKENS)
