"""DeepFloyd IF, stage I, behind the `Prior` protocol: 64x64 pixels and T5 text, the open model closest to the paper's.

Stage 11 for `guidance=deepfloyd`. Its space is the image itself in [-1, 1]. Tested on small random networks of the
same classes; not run on the published weights yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_from_prediction
from dreamfusion.guidance.pretrained import choose_dtype, encode_text, find_model, load_frozen, noise_schedule
from dreamfusion.guidance.prior import GuidanceError
from dreamfusion.types import Cameras, TextEmbedding

# XL first (4.3 billion parameters), then L (0.9), M (0.4). Gated: accept the licence on the hub, then `hf auth login`.
MODELS = ("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd/IF-I-L-v1.0", "DeepFloyd/IF-I-M-v1.0")
PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")
TOKENS = 77  # T5 could take more; IF was trained with 77


class DeepFloydPrior:
    """A pixel diffusion model with T5 text. The U-Net runs in half precision on CUDA."""

    name = "deepfloyd"
    sample_scale = 7.0  # the usual one of diffusers, stage I
    pixel_space = True

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        guidance_scale: float = 20.0,
        weighting: str = "sigma2",
        attention_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        """Find and read the weights; the text encoder only when there is text.

        Args:
            model: folder in diffusers' layout, or hub id; None tries MODELS in order.
            revision: branch, tag or commit on the hub.
            dtype: of the U-Net and the text encoder: "auto", "float16", "bfloat16" or "float32".
            guidance_scale, weighting: what the distillation takes where it is given none.
            attention_slicing: less memory, slower.
            compile: `torch.compile` the U-Net; minutes at the first step.

        Raises:
            GuidanceError: no weights can be had, or T5's tokenizer cannot be read.
            ValueError: an unknown dtype.
        """
        from diffusers import UNet2DConditionModel

        self.guidance_scale, self.weighting = guidance_scale, weighting
        self._dtype_name, self._device = dtype, torch.device("cpu")
        # The precision it will run in: `to(cuda)` then need not hold a float32 copy first.
        expected = choose_dtype(dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._folder = find_model((model,) if model else MODELS, revision, PARTS, half=expected == torch.float16)
        if not (self._folder / "tokenizer" / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
            raise GuidanceError("T5's tokenizer needs sentencepiece; type pip install sentencepiece protobuf")
        self.alphas_cumprod, self._prediction = noise_schedule(self._folder)
        self._unet = load_frozen(UNet2DConditionModel, self._folder, "unet", expected)
        self.resolution: int = self._unet.config.sample_size
        if attention_slicing:
            self._unet.set_attention_slice("auto")
        if compile:
            self._unet.compile()

    def to(self, device: torch.device | str) -> Self:
        """Move in place; "auto" takes the precision of the new device."""
        self._device = torch.device(device)
        self._unet.to(self._device, choose_dtype(self._dtype_name, self._device))
        self.alphas_cumprod = self.alphas_cumprod.to(self._device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Nothing: it saw the web."""

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts, in lower case as in training -> (K, 77, D)."""
        from transformers import T5EncoderModel, T5Tokenizer

        tokenizer = T5Tokenizer.from_pretrained(
            str(self._folder / "tokenizer"), model_max_length=TOKENS, local_files_only=True
        )
        lowered = [text.lower().strip() for text in texts]
        return encode_text(
            tokenizer, T5EncoderModel, self._folder, lowered, self._device, choose_dtype(self._dtype_name, self._device)
        )

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [0, 1] -> the same in [-1, 1]."""
        return rgb * 2 - 1

    @torch.no_grad()
    def predict_noise(
        self, noisy: Tensor, timestep: Tensor, text: TextEmbedding, cameras: Cameras | None, camera_known: Tensor | None
    ) -> Tensor:
        """See `Prior.predict_noise`; takes no camera. The network's last 3 of 6 channels are its learned variance."""
        dtype = self._unet.dtype
        prediction = self._unet(noisy.to(dtype), timestep, encoder_hidden_states=text.states.to(dtype)).sample
        prediction = prediction[:, : noisy.shape[1]].float()
        return noise_from_prediction(self._prediction, prediction, noisy, self.alphas_cumprod[timestep])

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [-1, 1] -> the same in [0, 1]."""
        return (latents.detach() / 2 + 0.5).clamp(0, 1)
