"""Load the autoencoder between images and the latents of a network, the model's own or another of the same latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.hub import find_model
from dreamfusion.guidance.pretrained import load_frozen, read_json

KL, TINY = "AutoencoderKL", "AutoencoderTiny"  # the second (TAESD) takes less memory, and is coarser
SCALE = 0.18215  # of the first's latents, where its configuration names none


def load_autoencoder(own: Path, other: str | None, dtype: torch.dtype, name: str, overflows: bool) -> Any:
    """The frozen autoencoder, of the class that its folder names.

    Args:
        own: folder of the model's own.
        other: folder or hub id of one in its place (`guidance.vae`), or None.
        dtype: of its weights.
        name: of the prior, for messages.
        overflows: whether the model's published autoencoder overflows in float16.

    Raises:
        GuidanceError: it is none, is of other latents, or overflows.
    """
    import diffusers

    folder = own if other is None else find_model((other,), None, (".",), False, "guidance.vae")
    config = read_json(folder / "config.json")
    kind = config.get("_class_name")
    if kind not in (KL, TINY):
        raise GuidanceError(f"the autoencoder in {folder} is a {kind}, expected {KL} or {TINY}")
    if other is not None:
        _check_same_latents(other, config, read_json(own / "config.json"), name)
    if dtype == torch.float16 and overflows and config.get("force_upcast", False):
        raise GuidanceError(
            f"the autoencoder of {name} overflows in float16 (force_upcast in {folder}); type "
            "guidance.vae_dtype=float32, or name another one such as guidance.vae=madebyollin/sdxl-vae-fp16-fix"
        )
    return load_frozen(getattr(diffusers, kind), folder, ".", dtype)


def _check_same_latents(other: str, config: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    """Raises: GuidanceError: another number of channels, or, of two of kind KL, another scale."""
    for setting, given in (("latent_channels", 4), ("scaling_factor", SCALE)):
        if setting == "scaling_factor" and {config.get("_class_name"), own.get("_class_name")} != {KL}:
            continue  # a tiny one has the network's own scale
        found, wanted = config.get(setting, given), own.get(setting, given)
        if found != wanted:
            raise GuidanceError(
                f"guidance.vae={other} has other latents than {name} was trained with ({setting} {found}, not "
                f"{wanted}); leave it out, or name an autoencoder of the same latents"
            )
