"""`mode=sheet`: one picture of several runs from eight directions, colour above opacity."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.image import as_uint8, contact_sheet, write_image
from dreamfusion.runs.find import find_checkpoint, find_runs, run_choice
from dreamfusion.runs.names import RUNS, STUDIES, slug

log = logging.getLogger(__name__)
LABEL = 22  # pixels, height of the line above each prompt's pictures


def run(cfg: DictConfig, prompts: Sequence[str], output: str, directions: int, size: int, elevation: float) -> Path:
    """Write the sheet of the newest run of each prompt, or of all runs of `run` or `study`, to `output`."""
    if (choice := run_choice(cfg)) is None:
        found = [find_checkpoint("latest", RUNS / slug(p), *STUDIES.glob(f"*/{slug(p)}")) for p in prompts]
    else:
        found = [find_checkpoint(str(folder)) for folder in find_runs(choice)]
    rows = []
    for scene in map(load_scene, found):
        name = str(scene.config.prompt) if choice is None else f"{scene.config.prompt}, {scene.run.name}"
        rows.append(labelled(name, around(scene, directions, size, elevation)))
    path = Path(output)
    write_image(np.concatenate(rows), path)
    log.info("%s", path)
    return path


@torch.no_grad()
def around(scene: TrainedScene, directions: int, size: int, elevation: float) -> np.ndarray:
    """Colour above opacity from `directions` azimuths, from the front to the right: (2 size, directions size, 3)."""
    azimuth = torch.arange(directions) * (360.0 / directions)
    images: list[np.ndarray] = []
    opacities: list[np.ndarray] = []
    for angle in azimuth:
        cameras = scene.camera.view(angle[None], elevation, size, size)
        out = scene.scene.render(cameras)
        images.append(as_uint8(out.rgb)[0])
        opacities.append(as_uint8(out.opacity.expand(-1, 3, -1, -1))[0])
    return contact_sheet([*images, *opacities], columns=directions)


def labelled(text: str, picture: np.ndarray) -> np.ndarray:
    """Add a line of text above the picture."""
    line = Image.new("RGB", (picture.shape[1], LABEL), "white")
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(line).text((6, 3), text, fill="black", font=font)
    return np.concatenate([np.asarray(line), picture])
