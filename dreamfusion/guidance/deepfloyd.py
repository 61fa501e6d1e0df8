"""DeepFloyd IF, stage I (stage 11, `guidance=deepfloyd`): 64x64 pixels and T5 text, closest to the paper's prior.

Latents are the image in [-1, 1]. Tested with small random networks of the same classes, not with published weights.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from dreamfusion.guidance.diffusers_prior import DiffusersPrior
from dreamfusion.guidance.prior import GuidanceError
from dreamfusion.types import TextEmbedding

TOKENS = 77  # as in IF's training; T5 accepts more


class DeepFloydPrior(DiffusersPrior):
    """A pixel-space diffusion model with a T5 text encoder."""

    name = "deepfloyd"
    # XL (4.3 billion parameters), L (0.9), M (0.4). Gated: accept the licence on the hub, then `hf auth login`.
    models = ("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd/IF-I-L-v1.0", "DeepFloyd/IF-I-M-v1.0")
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    sample_scale = 7.0  # default of diffusers, stage I
    pixel_space = True

    def __init__(self, **settings: Any) -> None:
        """See `DiffusersPrior`.

        Raises:
            GuidanceError: the weights are not available, or T5's tokenizer cannot be read.
        """
        super().__init__(**settings)
        if not (self._folder / "tokenizer" / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
            raise GuidanceError("T5's tokenizer needs sentencepiece; type pip install sentencepiece protobuf")
        self.resolution: int = self._unet.config.sample_size

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts in lower case, as in training: (K, 77, D)."""
        from transformers import T5EncoderModel, T5Tokenizer

        tokenizer = T5Tokenizer.from_pretrained(
            str(self._folder / "tokenizer"), model_max_length=TOKENS, local_files_only=True
        )
        return self._encode(tokenizer, T5EncoderModel, [text.lower().strip() for text in texts])

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Scale images (B, 3, 64, 64) from [0, 1] to [-1, 1]."""
        return rgb * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Scale images (B, 3, 64, 64) from [-1, 1] to [0, 1], clamped."""
        return (latents.detach() / 2 + 0.5).clamp(0, 1)
