"""Locate and load published weights in diffusers' folder layout.

Weights are always loaded from a local folder. A hub id is first resolved to one (by download or from the cache), so a
missing model fails at once with one error, not after minutes of retries during loading.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import PREDICTIONS, flow_alphas_cumprod
from dreamfusion.guidance.prior import GuidanceError

HUB_TIMEOUT = 5.0  # seconds, to test whether the hub is reachable
LATEST_FLOW = 0.9999  # of the flow time; alpha is then 1e-4, and x0 = (z - sigma eps) / alpha exact to 1e-3 in float32
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find_model(
    candidates: Sequence[str], revision: str | None, parts: Sequence[str], half: bool, setting: str = "guidance.model"
) -> Path:
    """Folder of the first available candidate.

    Args:
        candidates: folders or hub ids, in order of preference.
        revision: branch, tag or commit on the hub; None is its main branch.
        parts: required sub-folders; the first one must have weights. "." is the folder itself.
        half: prefer the hub's float16 files, which are half the size.
        setting: that names the model, for the message.

    Raises:
        GuidanceError: none is available; the message lists each candidate with the reason.
    """
    reasons = []
    for candidate in candidates:
        try:
            folder = _local_folder(candidate) or _hub_folder(candidate, revision, parts, half)
        except (OSError, ValueError) as error:  # the hub's errors are OSErrors, a malformed id is a ValueError
            # The first line of a hub error has the reason, the rest are links.
            reasons.append(f"{candidate}: {str(error).strip().splitlines()[0]}")
            continue
        missing = [part for part in parts if not (folder / part).is_dir()]
        if not missing and _has_weights(folder / parts[0]):
            return folder
        reasons.append(f"{candidate}: {folder} has no {', '.join(missing) or f'weights in {parts[0]}'}")
    raise GuidanceError(
        f"no weights for {setting}; tried\n"
        + "".join(f"  {reason}\n" for reason in reasons)
        + f"Give {_layout(parts)} with {setting}=/path/to/folder, or another hub id with {setting}=owner/name; "
        "guidance=pocket needs no download."
    )


def find_file(name: str, setting: str) -> Path:
    """A local file, or `owner/name/file` on the hub or in its cache.

    Raises:
        GuidanceError: there is none; the message names the setting.
    """
    from huggingface_hub import hf_hub_download

    path = Path(name).expanduser()
    if path.is_file():
        return path
    owner, *rest = name.split("/", 2)
    try:
        if not owner or len(rest) != 2:
            raise FileNotFoundError("no such file")
        return Path(hf_hub_download(f"{owner}/{rest[0]}", rest[1], local_files_only=not hub_answers()))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GuidanceError(
            f"{setting}={name}: {reason}; type the path of a file, or owner/name/file on the hub"
        ) from error


def load_frozen(network: type[Any], folder: Path, part: str, dtype: torch.dtype) -> Any:
    """Load sub-folder `part` with diffusers' `network.from_pretrained`; frozen."""
    from diffusers.utils import is_accelerate_available

    loaded = network.from_pretrained(
        str(folder / part),
        torch_dtype=dtype,
        variant=variant_of(folder / part, dtype),
        low_cpu_mem_usage=is_accelerate_available(),
        local_files_only=True,
        use_safetensors=True,
    )
    return loaded.eval().requires_grad_(False)


def noise_schedule(folder: Path) -> tuple[Tensor, str]:
    """alphas_cumprod (T,) float32 and the prediction type, from `scheduler/`.

    Flow matching has the folder's own (shifted) times. The last one, pure noise, is bounded: x0 is undefined there.

    Raises:
        GuidanceError: the prediction type is not in PREDICTIONS.
    """
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    if "FlowMatch" in json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]:
        flow = FlowMatchEulerDiscreteScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
        return flow_alphas_cumprod(flow.sigmas.flip(0).clamp(max=LATEST_FLOW)).float(), "flow_prediction"
    scheduler = DDPMScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS:
        raise GuidanceError(f"the network in {folder} predicts {kind!r}, expected one of {', '.join(PREDICTIONS)}")
    return scheduler.alphas_cumprod.float(), kind


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


@cache
def hub_answers() -> bool:
    """Whether the hub is reachable, tested once a process; huggingface_hub would retry for minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # an HTTP error is an answer
    except OSError:
        return False
    return True


def _local_folder(candidate: str) -> Path | None:
    """Path of a candidate that is a folder; None for a hub id."""
    folder = Path(candidate).expanduser()
    if folder.is_dir():
        return folder
    if candidate.startswith(("/", "~", ".")) or candidate.count("/") > 1:
        raise FileNotFoundError("no such folder")
    return None


def _hub_folder(model: str, revision: str | None, parts: Sequence[str], half: bool) -> Path:
    """Download the parts of a hub model, or use its cached copy if the hub does not answer."""
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, model, revision=revision)
    if not hub_answers():
        try:
            return Path(fetch(allow_patterns=f"{parts[0]}/*.json", local_files_only=True))
        except FileNotFoundError as error:
            raise FileNotFoundError("not in the cache, and the hub does not answer (or HF_HUB_OFFLINE=1)") from error
    places = ["" if part == "." else f"{part}/" for part in parts]
    small = [f"{place}*{ending}" for place in places for ending in (".json", ".txt", ".model")]
    if half:
        weights = [f"{place}*.fp16*.safetensors" for place in places]
        folder = Path(fetch(allow_patterns=small + weights))
        if _has_weights(folder / parts[0]):
            return folder
    weights = [f"{place}*.safetensors" for place in places]
    return Path(fetch(allow_patterns=small + weights, ignore_patterns=["*.fp16*", "*non_ema*"]))


def _layout(parts: Sequence[str]) -> str:
    folders = ", ".join(f"{part}/" for part in parts)
    return "a folder with the model's files" if tuple(parts) == (".",) else f"a folder in diffusers' layout ({folders})"


def _has_weights(folder: Path) -> bool:
    return any(path.suffix == ".safetensors" for path in folder.glob("*"))


def variant_of(folder: Path, dtype: torch.dtype) -> str | None:
    """ "fp16" if the dtype is float16 and there is such a file, or if there are only such files."""
    weights = [path.name for path in folder.glob("*") if path.suffix == ".safetensors"]
    half = [name for name in weights if ".fp16" in name]
    return "fp16" if half and (dtype == torch.float16 or len(half) == len(weights)) else None
