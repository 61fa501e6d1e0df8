"""CLIP (stage 11, `guidance=clip`): the similarity of image and text, for the baseline of Jain et al. 2022.

No diffusion model: "latents" are the unit embedding of an image, there is no noise, and nothing is predicted. Tested
with small random networks of the published class, not with published weights.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.hub import find_model
from dreamfusion.guidance.pretrained import load_frozen, load_tokenizer
from dreamfusion.guidance.tokens import tokenized
from dreamfusion.ops.constants import constant
from dreamfusion.types import Branch, Conditioning, TextEmbedding

# Of OpenAI's images and of its successors', transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipPrior:
    """CLIP's two encoders in float32; the text encoder is freed once the texts are encoded."""

    name = "clip"
    models = ("openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14")  # hub ids, tried in order
    views, sample_scale, pixel_space = 1, 1.0, False

    def __init__(self, model: str | None, revision: str | None, guidance_scale: float, weighting: str) -> None:
        """Find and load the image encoder.

        Args:
            model: folder or hub id of transformers' CLIPModel; None tries `models` in order.
            revision: branch, tag or commit on the hub.
            guidance_scale, weighting: see `Prior`; neither has an effect but that of a weighting of 1.

        Raises:
            GuidanceError: the weights are not available.
        """
        self.guidance_scale, self.weighting = guidance_scale, weighting
        self._folder = find_model((model,) if model else self.models, revision, (".",), half=False)
        network = self._load()
        self._vision, self._projection = network.vision_model, network.visual_projection
        self.resolution: int = network.config.vision_config.image_size
        self.alphas_cumprod = torch.ones(1)  # one timestep, without noise

    def to(self, device: torch.device | str) -> Self:
        """Move in place."""
        self._vision.to(device)
        self._projection.to(device)
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """No check: the training data covers the web."""

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts: `pooled` is their unit embedding (K, D)."""
        from transformers import CLIPTokenizer

        network, device = self._load(), self.alphas_cumprod.device
        encoder = network.config.text_config
        tokenizer = load_tokenizer(CLIPTokenizer, self._folder, encoder.vocab_size)
        tokens = tokenized(texts, tokenizer, min(tokenizer.model_max_length, encoder.max_position_embeddings))
        output = network.text_model(**tokens)
        pooled = normalize(network.text_projection(output.pooler_output), dim=-1)
        return TextEmbedding(output.last_hidden_state, tokens.attention_mask.bool(), pooled).to(device)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> unit embeddings (B, D, 1, 1), differentiable."""
        mean, deviation = (constant(tuple(values), rgb.device, rgb.dtype).view(3, 1, 1) for values in (MEAN, DEVIATION))
        pooled = self._vision((rgb - mean) / deviation).pooler_output
        return normalize(self._projection(pooled), dim=-1)[..., None, None]

    def score(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """Cosine of each image and its text, (B,)."""
        assert conditioning.text.pooled is not None
        return (latents.flatten(1) * conditioning.text.pooled).sum(1)

    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """Raises: GuidanceError: always."""
        raise GuidanceError("guidance=clip denoises nothing; type distillation=clip_similarity, or guidance=sd")

    def decode(self, latents: Tensor) -> Tensor:
        """Mid-grey (B, 3, r, r): an embedding has no image."""
        return torch.full((len(latents), 3, self.resolution, self.resolution), 0.5, device=latents.device)

    def _load(self) -> Any:
        from transformers import CLIPModel

        return load_frozen(CLIPModel, self._folder, ".", torch.float32)
