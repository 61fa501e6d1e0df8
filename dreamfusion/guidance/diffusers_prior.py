"""Base class of priors with published weights in diffusers' folder layout: loading, precision, latents, prediction."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dreamfusion.diffusion.parameterization import PREDICTIONS, clean_from_prediction, network_input
from dreamfusion.error import GuidanceError
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.guidance.autoencoder import load_autoencoder
from dreamfusion.guidance.hub import find_file, find_model
from dreamfusion.guidance.pretrained import (
    add_lora,
    choose_dtype,
    load_frozen,
    load_tokenizer,
    noise_schedule,
    read_json,
)
from dreamfusion.guidance.prior import concatenate_texts
from dreamfusion.guidance.single_file import unpacked
from dreamfusion.guidance.textual_inversion import add_words
from dreamfusion.guidance.tokens import tokenized
from dreamfusion.paths import CACHE
from dreamfusion.types import Branch, TextEmbedding

LARGE = 4e9  # bytes of the files of a text encoder; T5-XXL has 4.8 billion parameters, and the largest CLIP 0.7


class DiffusersPrior(AdaptablePrior):
    """A network with cross-attention to text; half precision on CUDA (run there with random weights).

    Latents are those of the autoencoder in `vae/`, shifted and scaled, and the distillation gradient is backpropagated
    through the encoder (Poole et al. 2022 used a pixel-space prior without an encoder, see `PixelSpace`).
    """

    name: ClassVar[str]
    models: ClassVar[Sequence[str]]  # hub ids, tried in order
    parts: Sequence[str]  # required sub-folders, the network's first
    architecture: ClassVar[str] = "UNet2DConditionModel"  # class of the network in diffusers
    pipeline: ClassVar[str] = "StableDiffusionPipeline"  # class of diffusers that reads single files
    views = 1
    pixel_space = False
    adapted_layers = ("to_q", "to_k", "to_v", "to_out.0")
    sees_camera = False
    picture_channels: ClassVar[int] = 0  # of the network's input, after those of the noisy latents
    left_out: Sequence[str] = ()  # parts of the pipeline that are not used, and may be missing in a single file
    trained: ClassVar[int | None] = None  # pixels a side of the training's images, if the configuration has others
    overflows: ClassVar[bool] = False  # the published autoencoder, in float16

    def __init__(
        self,
        model: str | None,
        revision: str | None,
        dtype: str,
        guidance_scale: float,
        weighting: str,
        resolution: int | None,
        channels_last: bool,
        attention_slicing: bool,
        compile: bool,
        cuda_graph: bool,
        vae: str | None,
        vae_dtype: str,
        view_chunk: int | None,
        lora: Sequence[Any] | None,
        tokens: Sequence[str] | None,
        prediction: str | None,
    ) -> None:
        """Find and load the weights, except for the text encoders, which `encode_text` loads.

        Args:
            model: folder in diffusers' layout, hub id, or one .safetensors or .ckpt file; None tries `models`.
            revision: branch, tag or commit on the hub.
            dtype: of the network: "auto", "float16", "bfloat16" or "float32".
            guidance_scale, weighting: recommended values for distillation, see `Prior`.
            resolution: pixels a side of the encoded images; None: those of the training.
            channels_last: memory layout of the network.
            attention_slicing: less memory, slower.
            compile: `torch.compile` the network; the first step takes minutes.
            cuda_graph: on CUDA, replay predictions as one CUDA graph; without effect while the network has an adapter.
            vae: another autoencoder of the same latents: folder or hub id; None: the model's own.
            lora: file or `owner/name/file` on the hub, and the weight, of low-rank changes of the network; None: none.
            tokens: files of textual inversion, see `add_words`; None: none.
            prediction: what the network predicts, one of PREDICTIONS, in place of what the scheduler's configuration
                says; None: that.
            vae_dtype: of the autoencoder. Small gradients may underflow in float16 on their way to the image.
            view_chunk: images encoded at once, and again in the backward pass, so that no activations are kept while
                the network runs; None: all at once, with their activations.

        Raises:
            GuidanceError: the weights are not available, or the resolution or the precision does not suit them.
            ValueError: an unknown dtype.
        """
        import diffusers

        if view_chunk is not None and view_chunk < 1:
            raise GuidanceError(f"guidance.view_chunk is {view_chunk}; type guidance.view_chunk=1 for the least memory")
        self._view_chunk, self.cuda_graph = view_chunk, cuda_graph
        self.guidance_scale, self.weighting = guidance_scale, weighting
        self._dtype_name, self._device, self._tokens = dtype, torch.device("cpu"), tokens or ()
        # Load in the precision of the expected device, so that `to("cuda")` needs no float32 copy.
        expected = choose_dtype(dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if model and Path(model).expanduser().is_file():
            model = str(unpacked(Path(model).expanduser(), self.pipeline, self.left_out))
        candidates = (model,) if model else self.models
        half = expected == torch.float16
        self._folder = find_model(candidates, revision, self.parts, half, check=self._check_folder)
        self.alphas_cumprod, self._prediction = noise_schedule(self._folder)
        if prediction is not None:
            if prediction not in PREDICTIONS or "flow_prediction" in (prediction, self._prediction):
                allowed = "|".join(kind for kind in PREDICTIONS if kind != "flow_prediction")
                raise GuidanceError(f"guidance.prediction={prediction}; type guidance.prediction={allowed}")
            self._prediction = prediction
        self._network = self._load_network(getattr(diffusers, self.architecture), expected)
        if lora is not None:
            add_lora(self._network, *lora_of(lora))
        self._vae: Any = None
        if "vae" in self.parts:
            self._vae = load_autoencoder(
                self._folder / "vae", vae, choose_dtype(vae_dtype, self._device), self.name, self.overflows
            )
        factor = 1 if self._vae is None else 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.trained_resolution: int = self.trained or self._network.config.sample_size * factor
        self.resolution = self.trained_resolution if resolution is None else resolution
        unit = factor * getattr(self._network.config, "patch_size", 1)
        if self.resolution < unit or self.resolution % unit:
            raise GuidanceError(
                f"guidance.resolution={resolution}, expected a multiple of {unit}; "
                f"type guidance.resolution={self.trained_resolution}, which {self.name} was trained at"
            )
        if channels_last:
            for network in (self._network, *([] if self._vae is None else [self._vae])):
                network.to(memory_format=torch.channels_last)
        if attention_slicing:
            self._network.set_attention_slice("auto")
        if compile:  # torch's own folder is a temporary one, which a restart of the machine empties
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "compiled"))
            self._network.compile()

    def to(self, device: torch.device | str) -> Self:
        """Move in place; dtype "auto" follows the new device."""
        self._device, self._graph = torch.device(device), None
        with self._adapter_as_it_is(self._device):
            self._network.to(self._device, choose_dtype(self._dtype_name, self._device))
        if self._vae is not None:
            self._vae.to(self._device)
        self.alphas_cumprod = self.alphas_cumprod.to(self._device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """No check: the training data covers the web."""

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, C, h, w).

        The posterior's mean, not a sample, so that the distillation's generator is the only source of randomness.
        """
        if self._view_chunk is None:
            return self._encode_views(rgb)
        parts = rgb.split(self._view_chunk)
        return torch.cat([checkpoint(self._encode_views, part, use_reentrant=False) for part in parts])

    def _encode_views(self, rgb: Tensor) -> Tensor:
        assert self._vae is not None
        encoded = self._vae.encode((rgb * 2 - 1).to(self._vae.dtype))
        latents = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
        scale, shift = self._latent_units()
        return (latents.float() - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> (B, 3, r, r) in [0, 1], clamped."""
        assert self._vae is not None
        scale, shift = self._latent_units()
        image = self._vae.decode((latents / scale + shift).to(self._vae.dtype)).sample.float()
        return (image / 2 + 0.5).clamp(0, 1)

    def _denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`.

        Output channels beyond those of `noisy` are a learned variance (DeepFloyd IF) and are dropped. The text mask is
        not used because the networks were trained with visible padding.
        """
        count, dtype, text = len(branches), self._network.dtype, concatenate_texts(branches)
        noisy, timestep = noisy.repeat(count, 1, 1, 1), timestep.repeat(count)
        image, time = network_input(self._prediction, noisy, timestep, self.alphas_cumprod)
        image, states = self._inputs(image, text.states, branches)
        prediction = self._network(
            image.to(dtype),
            timestep=time,
            encoder_hidden_states=states.to(dtype),
            **self._conditions(text, branches, dtype),
        ).sample
        prediction = prediction[:, : noisy.shape[1]].float()
        clean = clean_from_prediction(self._prediction, prediction, noisy, self.alphas_cumprod[timestep])
        return clean.chunk(count)

    def _inputs(self, image: Tensor, states: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
        """Input channels and cross-attention states of the network for the concatenated branches."""
        return image, states

    def _conditions(self, text: TextEmbedding, branches: Sequence[Branch], dtype: torch.dtype) -> dict[str, Any]:
        """Further arguments of the network for the concatenated branches; cameras and appearance are ignored."""
        return {}

    def _check_folder(self, folder: Path) -> None:
        """Refuse the configurations of other kinds of model, before weights are downloaded.

        Raises:
            GuidanceError: the network is not one for text and images of this prior's space alone, or a package for its
                tokenizer is missing.
        """
        for part in self.parts:
            pieces, whole = (folder / part / name for name in ("spiece.model", "tokenizer.json"))
            if pieces.is_file() and not whole.is_file() and find_spec("sentencepiece") is None:
                raise GuidanceError(f"{folder / part} needs sentencepiece; type pip install sentencepiece protobuf")
        network = read_json(folder / self.parts[0] / "config.json")
        kind, channels = network.get("_class_name"), network.get("in_channels")
        if kind != self.architecture:
            raise GuidanceError(f"{folder} has a {kind}, but guidance={self.name} takes a {self.architecture}")
        larger = network.get("addition_embed_type") == "text_time"
        if self.architecture == "UNet2DConditionModel" and larger != ("text_encoder_2" in self.parts):
            kind, option = ("", "sdxl") if larger else ("not ", "sd")
            raise GuidanceError(f"{folder} is {kind}Stable Diffusion XL; type guidance={option}")
        if self.picture_channels and channels != 2 * self.picture_channels:
            raise GuidanceError(
                f"the network in {folder} takes {channels} channels, expected {2 * self.picture_channels}: it takes "
                f"no picture; type guidance.model={self.models[0]}"
            )
        latents = read_json(folder / "vae" / "config.json").get("latent_channels", 4) if "vae" in self.parts else 3
        expected = latents + self.picture_channels
        if channels != expected:
            raise GuidanceError(
                f"the network in {folder} takes {channels} channels, expected {expected}: it is made for inpainting, "
                "editing or upscaling, not for text alone; type guidance.model=... with a text-to-image model"
            )
        if not isinstance(size := network.get("sample_size"), int):
            raise GuidanceError(f"the network in {folder} has sample_size {size}, expected the side of its latents")

    def _load_network(self, network: type[Any], dtype: torch.dtype) -> Any:
        return load_frozen(network, self._folder, self.parts[0], dtype)

    def _latent_units(self) -> tuple[float, float]:
        """Factor and offset between the autoencoder's latents and the network's."""
        assert self._vae is not None
        config = self._vae.config
        return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0

    @torch.no_grad()
    def _encode(
        self,
        tokenizer: type[Any],
        encoder: type[Any],
        texts: Sequence[str],
        number: str = "",
        layer: int | None = None,
        masked: bool = False,
        **settings: Any,
    ) -> TextEmbedding:
        """Encode K texts with `tokenizer<number>/` and `text_encoder<number>/`: (K, L, D), padded or cut to L tokens.

        The encoder runs on the CPU, in float32, or in bfloat16 if it is LARGE (T5-XXL, which overflows in float16), so
        that the embedding depends neither on `dtype` nor on where the prior is. It is loaded for each call and freed
        afterwards. `pooled` is the projected vector of an encoder that has one.

        Args:
            layer: index into the hidden states, such as -2; None: the last one, after the final normalisation.
            masked: the encoder does not attend to padding, unless its own configuration has `use_attention_mask`.
            settings: of the tokenizer.
        """
        part = f"text_encoder{number}"
        large = sum(file.stat().st_size for file in (self._folder / part).glob("*.safetensors")) > LARGE
        network = load_frozen(encoder, self._folder, part, torch.bfloat16 if large else torch.float32)
        words = load_tokenizer(tokenizer, self._folder / f"tokenizer{number}", network.config.vocab_size, **settings)
        key = ("clip_g" if number else "clip_l") if "text_encoder_2" in self.parts else None
        for word, spelling in add_words(self._tokens, words, network, key).items():
            texts = [text.replace(word, spelling) for text in texts]
        if self._tokens and hasattr(getattr(network, "text_model", None), "eos_token_id"):
            # With the published 2, the pooled text is that of the largest token, which an added word's is.
            network.text_model.eos_token_id = words.eos_token_id
        length = min(words.model_max_length, getattr(network.config, "max_position_embeddings", words.model_max_length))
        tokens = tokenized(texts, words, length)
        mask = tokens.attention_mask if getattr(network.config, "use_attention_mask", masked) else None
        output = network(tokens.input_ids, attention_mask=mask, output_hidden_states=layer is not None)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        pooled = output.get("text_embeds")
        pooled = None if pooled is None else pooled.float().to(self._device)
        return TextEmbedding(states.float().to(self._device), tokens.attention_mask.bool().to(self._device), pooled)


def lora_of(setting: Sequence[Any]) -> tuple[Path, float]:
    """The file and the weight of the setting guidance.lora.

    Raises:
        GuidanceError: there is no such file, or it is not a file and a weight.
    """
    match list(setting):
        case [str(name), int() | float() as weight]:
            return find_file(name, "guidance.lora"), float(weight)
    raise GuidanceError(f"guidance.lora={list(setting)}, expected a file and its weight: guidance.lora=[path,0.8]")
