"""Base class of priors with published weights in diffusers' folder layout: loading, precision, prediction."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_from_prediction
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.guidance.pretrained import choose_dtype, find_model, load_frozen, noise_schedule, variant_of
from dreamfusion.guidance.prior import concatenate_texts
from dreamfusion.types import Branch, TextEmbedding


class DiffusersPrior(AdaptablePrior):
    """A U-Net with cross-attention to text; half precision on CUDA (not yet tested there)."""

    name: ClassVar[str]
    models: ClassVar[Sequence[str]]  # hub ids, tried in order
    parts: ClassVar[Sequence[str]]  # required sub-folders
    views = 1
    adapted_layers = ("to_q", "to_k", "to_v", "to_out.0")
    sees_camera = False

    def __init__(
        self,
        model: str | None,
        revision: str | None,
        dtype: str,
        guidance_scale: float,
        weighting: str,
        channels_last: bool,
        attention_slicing: bool,
        compile: bool,
    ) -> None:
        """Find and load the weights, except for the text encoder, which `encode_text` loads.

        Args:
            model: folder in diffusers' layout, or hub id; None tries `models` in order.
            revision: branch, tag or commit on the hub.
            dtype: of the U-Net and the text encoder: "auto", "float16", "bfloat16" or "float32".
            guidance_scale, weighting: recommended values for distillation, see `Prior`.
            channels_last: memory layout of the U-Net.
            attention_slicing: less memory, slower.
            compile: `torch.compile` the U-Net; the first step takes minutes.

        Raises:
            GuidanceError: the weights are not available.
            ValueError: an unknown dtype.
        """
        from diffusers import UNet2DConditionModel

        self.guidance_scale, self.weighting = guidance_scale, weighting
        self._dtype_name, self._device = dtype, torch.device("cpu")
        # Load in the precision of the expected device, so that `to("cuda")` needs no float32 copy.
        expected = choose_dtype(dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        candidates = (model,) if model else self.models
        self._folder = find_model(candidates, revision, self.parts, half=expected == torch.float16)
        self.alphas_cumprod, self._prediction = noise_schedule(self._folder)
        self._unet = load_frozen(UNet2DConditionModel, self._folder, "unet", expected)
        if channels_last:
            self._unet.to(memory_format=torch.channels_last)
        if attention_slicing:
            self._unet.set_attention_slice("auto")
        if compile:
            self._unet.compile()

    def to(self, device: torch.device | str) -> Self:
        """Move in place; dtype "auto" follows the new device."""
        self._device = torch.device(device)
        self._unet.to(self._device, choose_dtype(self._dtype_name, self._device))
        self.alphas_cumprod = self.alphas_cumprod.to(self._device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """No check: the training data covers the web."""

    @property
    def _network(self) -> Any:
        return self._unet

    def _predict(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.predict`; cameras and appearance are ignored.

        Output channels beyond those of `noisy` are a learned variance (DeepFloyd IF) and are dropped. The text mask is
        not used because the networks were trained with visible padding.
        """
        count, dtype, text = len(branches), self._unet.dtype, concatenate_texts(branches)
        noisy, timestep = noisy.repeat(count, 1, 1, 1), timestep.repeat(count)
        prediction = self._unet(noisy.to(dtype), timestep, encoder_hidden_states=text.states.to(dtype)).sample
        prediction = prediction[:, : noisy.shape[1]].float()
        noise = noise_from_prediction(self._prediction, prediction, noisy, self.alphas_cumprod[timestep])
        return noise.chunk(count)

    @torch.no_grad()
    def _encode(self, tokenizer: Any, encoder: type[Any], texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts with `text_encoder/`: (K, L, D), padded or cut to the tokenizer's length L.

        The encoder is loaded for each call and freed afterwards: it is needed once a run and may be larger than the
        U-Net (T5-XXL: 4.8 billion parameters).
        """
        dtype, folder = choose_dtype(self._dtype_name, self._device), self._folder / "text_encoder"
        network = encoder.from_pretrained(
            str(folder), dtype=dtype, variant=variant_of(folder, dtype), local_files_only=True
        )
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").to(self._device)
        mask = tokens.attention_mask
        # CLIP in Stable Diffusion attends to its padding; T5 does not.
        uses_mask = getattr(network.config, "use_attention_mask", network.config.model_type == "t5")
        output = network.eval().to(self._device)(tokens.input_ids, attention_mask=mask if uses_mask else None)
        return TextEmbedding(output.last_hidden_state.float(), mask.bool())
