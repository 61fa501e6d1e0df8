"""Load networks, tokenizers and noise levels from a folder in diffusers' layout, and refuse what does not fit."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import PREDICTIONS, flow_alphas_cumprod
from dreamfusion.error import GuidanceError
from dreamfusion.guidance.hub import weight_files

LONGEST = 300  # characters of a library's message
REPLACE = "; replace the files, or type guidance.model=... with another model"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

log = logging.getLogger(__name__)


def load_frozen(network: type[Any], folder: Path, part: str, dtype: torch.dtype) -> Any:
    """Load sub-folder `part` with the `from_pretrained` of diffusers or transformers; frozen.

    Raises:
        GuidanceError: the files cannot be read, or their weights are not exactly those of the network.
    """
    from diffusers import ModelMixin
    from diffusers.utils import is_accelerate_available

    quiet()
    place = folder / part
    precision: dict[str, Any] = {"dtype": dtype}
    if issubclass(network, ModelMixin):
        precision = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    with refused(f"{place} cannot be read", REPLACE):
        loaded, report = network.from_pretrained(
            str(place),
            variant=variant_of(place, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **precision,
        )
    for kind, name in (("missing", "missing_keys"), ("unknown", "unexpected_keys"), ("misshapen", "mismatched_keys")):
        if keys := sorted(map(str, report[name])):
            raise GuidanceError(
                f"the weights in {place} are not those of {network.__name__}: {len(keys)} {kind}, such as {keys[0]}"
            )
    return loaded.eval().requires_grad_(False)


def add_lora(network: Any, file: Path, weight: float) -> None:
    """Add `weight` times the low-rank changes in a LoRA file (of diffusers, kohya, ...) to the weights of a network.

    Raises:
        GuidanceError: the file is not a LoRA of this network, or the package peft is missing.
    """
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders import SD3LoraLoaderMixin, StableDiffusionLoraLoaderMixin
    from diffusers.utils import is_peft_available

    if not is_peft_available():
        raise GuidanceError("guidance.lora needs the package peft; type pip install peft")
    quiet()
    place: dict[str, Any] = {"weight_name": file.name, "use_safetensors": True, "local_files_only": True}
    with refused(f"{file} is no LoRA of this network"):
        if isinstance(network, SD3Transformer2DModel):
            prefix, alphas = "transformer", None
            state = SD3LoraLoaderMixin.lora_state_dict(str(file.parent), **place)
        else:
            prefix, config = "unet", network.config
            state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
                str(file.parent), unet_config=config, **place
            )
        parts = {name.partition(".")[0] for name in state}
        if prefix not in parts:
            raise KeyError(f"it changes no weights of a {type(network).__name__}")
        network.load_lora_adapter(state, prefix=prefix, network_alphas=alphas)
        network.fuse_lora(lora_scale=weight, safe_fusing=True)
        network.unload_lora()
    if parts - {prefix}:
        log.warning("%s also changes the text encoder; that part is not used", file)


def load_tokenizer(tokenizer: type[Any], folder: Path, vocabulary: int, **settings: Any) -> Any:
    """Load the tokenizer in `folder`, whose encoder knows `vocabulary` tokens.

    Raises:
        GuidanceError: its files are missing, or it is not the encoder's.
    """
    with refused(f"the tokenizer in {folder} cannot be read", REPLACE):
        loaded = tokenizer.from_pretrained(str(folder), local_files_only=True, **settings)
        one, other = (loaded(text).input_ids for text in ("a cat", "b cat"))
    if one == other:
        raise GuidanceError(f"the tokenizer in {folder} has no vocabulary: files are missing, and all texts are alike")
    if max(*one, *other) >= vocabulary:
        raise GuidanceError(f"the tokenizer in {folder} knows more tokens than the {vocabulary} of its encoder")
    return loaded


def noise_schedule(folder: Path) -> tuple[Tensor, str]:
    """alphas_cumprod (T,) float32 and the prediction type, from `scheduler/`.

    Flow matching has the folder's own (shifted) times.

    Raises:
        GuidanceError: the prediction type is not in PREDICTIONS, or the noise levels are not named.
    """
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    config = read_json(folder / "scheduler" / "scheduler_config.json")
    name, place = str(config.get("_class_name", "")), str(folder / "scheduler")
    if name == "LCMScheduler" or (name == "EulerAncestralDiscreteScheduler" and "trailing" in config.values()):
        log.warning(
            "%s is distilled for sampling in few steps (Turbo, LCM): at other timesteps its predictions, and so the "
            "gradient, were not trained; use the model that it was distilled from",
            folder,
        )
    known = "FlowMatch" in name or {"beta_schedule", "trained_betas"} & config.keys()
    if not known:
        raise GuidanceError(f"{place} is a {name or 'scheduler'} without beta_schedule: its noise levels are unknown")
    with refused(f"{place} cannot be read", REPLACE):
        if "FlowMatch" in name:
            flow = FlowMatchEulerDiscreteScheduler.from_pretrained(place, local_files_only=True)
            return flow_alphas_cumprod(flow.sigmas.flip(0)).float(), "flow_prediction"
        scheduler = DDPMScheduler.from_pretrained(place, local_files_only=True)
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS or kind == "flow_prediction":
        raise GuidanceError(f"the network in {folder} predicts {kind!r}, expected one of {', '.join(PREDICTIONS)}")
    return scheduler.alphas_cumprod.float(), kind


def read_json(path: Path) -> dict[str, Any]:
    """Raises: GuidanceError: the file is missing, or no JSON object."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise GuidanceError(f"{path} cannot be read: {error}") from error


@contextmanager
def refused(what: str, remedy: str = "") -> Iterator[None]:
    """One sentence for whatever error the libraries raise in the block, which only reads a user's files with them.

    Raises:
        GuidanceError: `what`, the library's reason, `remedy`.
    """
    try:
        yield
    except GuidanceError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        reason = " ".join(str(error).split())[:LONGEST] or type(error).__name__
        raise GuidanceError(f"{what}: {reason}{remedy}") from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Parse a dtype; "auto" is float16 on CUDA and float32 elsewhere.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; type guidance.dtype=auto, or one of {', '.join(DTYPES)}")
    return DTYPES[name]


def variant_of(folder: Path, dtype: torch.dtype) -> str | None:
    """ "fp16" if the files of that name are read: the dtype is float16, or there are no others."""
    files = weight_files([path.name for path in folder.glob("*")], half=dtype == torch.float16)
    return "fp16" if any(".fp16" in name for name in files) else None


def quiet() -> None:
    """Silence what diffusers, transformers and the hub's client report of each file; failures are raised anyway."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
