"""A run that begins from a picture: find the prompt of a picture, and the settings of its camera."""

import logging
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.guidance.recognition import Recognised, Recognizer
from dreamfusion.reference.cutout import centred_box, cut_out, frame, object_box
from dreamfusion.reference.file import read_picture
from dreamfusion.runs.check import LOOKING
from dreamfusion.runs.names import subject

log = logging.getLogger(__name__)
SIZE = 64  # pixels a side of the picture that is compared with the prior's
UNLIKE, STRANGE = 0.75, 0.2  # less overlap, or more difference of the colours: the picture shows something else


def described(cfg: DictConfig) -> DictConfig:
    """The settings with the prompt that a picture without one shows, its variant, its camera and its place.

    For a prior that reads no prompt it is the name of the file. Unchanged where there is no picture, or a prompt.

    Raises:
        UserError: the picture cannot be used.
        GuidanceError: the prior cannot find the prompt.
    """
    if cfg.image is None or cfg.prompt is not None or cfg.prompts.file is not None:
        return cfg
    changed = cfg.copy()
    if cfg.guidance._target_ in LOOKING:
        changed.prompt = subject(cfg)
        return changed
    name = f"image={cfg.image}"
    pixels = cut_out(read_picture(Path(str(cfg.image))), name)
    prior = cached_prior(cfg.guidance)
    if not isinstance(prior, Recognizer):
        raise UserError(f'{name} needs a prompt with this prior; type prompt="a cat"')
    box = object_box(pixels)
    framed = frame(pixels, box, centred_box(box, 1.0), SIZE).astype(np.float32) / 255
    picture = torch.from_numpy(framed).permute(2, 0, 1)
    found = prior.recognise(picture, cfg.reference.azimuth, cfg.reference.elevation)
    changed.prompt = found.prompt
    named = cfg.guidance.variant
    if not (isinstance(named, int) and 0 < named < found.variants):  # else the command names one that this object has
        changed.guidance.variant = found.variant
    changed.reference.azimuth, changed.reference.elevation = found.azimuth, found.elevation
    if cfg.reference.box is None:
        changed.reference.box = [round(side, 4) for side in found.box]
    report(name, found)
    return changed


def report(name: str, found: Recognised) -> None:
    """Log which model was found for the picture `name`, and how well it fits; a warning where it does not."""
    like = found.overlap >= UNLIKE and found.difference <= STRANGE
    level, verb = (logging.INFO, "looks like") if like else (logging.WARNING, "is no known object")
    log.log(
        level,
        '%s %s%s "%s"%s from azimuth %g, elevation %g degrees: silhouettes overlap by %.2f, colours differ by %.2f (0 '
        "to 1)%s",
        name,
        verb,
        "" if level == logging.INFO else "; the nearest is",
        found.prompt,
        f" (guidance.variant={found.variant} of {found.variants})" if found.variants > 1 else "",
        found.azimuth,
        found.elevation,
        found.overlap,
        found.difference,
        "" if level == logging.INFO else '; type prompt="..." for another',
    )
