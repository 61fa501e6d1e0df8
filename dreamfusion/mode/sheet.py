"""`mode=sheet`: one picture of several runs from eight directions."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive, typed
from dreamfusion.image import contact_sheet, write_image
from dreamfusion.report.studio import normal_picture
from dreamfusion.report.turntable import LIGHTS, seen_around, turntable
from dreamfusion.runs.find import find_checkpoint, find_runs, run_choice
from dreamfusion.runs.names import RUNS, STUDIES, slug

log = logging.getLogger(__name__)
ROWS = (*LIGHTS, "normal", "opacity")
LABEL = 22  # pixels, height of the line above each prompt's pictures


def run(
    cfg: DictConfig,
    prompts: Sequence[str],
    rows: Sequence[str],
    output: str,
    directions: int,
    size: int,
    elevation: float,
) -> Path:
    """Write the sheet of the newest run of each prompt, or of all runs of `run` or `study`, to `output`.

    Raises:
        UserError: a row is not one of ROWS.
    """
    check_positive("mode", directions=directions, size=size)
    path = Path(output)
    if path.suffix != ".png":
        raise UserError(
            f"mode.output is {output}; the sheet is a PNG: type {typed('mode.output', path.with_suffix('.png'))}"
        )
    if not rows or set(rows) - set(ROWS):
        example = typed("mode.rows", "[studio,opacity]")
        raise UserError(f"mode.rows is {list(rows)}; type some of {', '.join(ROWS)}: {example}")
    if (choice := run_choice(cfg)) is None:
        found = [find_checkpoint("latest", RUNS / slug(p), *STUDIES.glob(f"*/{slug(p)}")) for p in prompts]
    else:
        found = [find_checkpoint(str(folder)) for folder in find_runs(choice)]
    parts = []
    for scene in map(load_scene, found):
        name = str(scene.config.prompt) if choice is None else f"{scene.config.prompt}, {scene.run.name}"
        parts.append(labelled(name, around(scene, rows, directions, size, elevation)))
    write_image(np.concatenate(parts), path)
    log.info("%s", path)
    return path


def around(scene: TrainedScene, rows: Sequence[str], directions: int, size: int, elevation: float) -> np.ndarray:
    """A row of pictures for each of `rows`, from the front to the right: (N size, directions size, 3) uint8."""
    pictures: list[np.ndarray] = []
    for row in rows:
        if row in LIGHTS:
            pictures += turntable(scene, directions, size, elevation, row)
            continue
        for camera, seen in seen_around(scene, directions, size, elevation, "albedo"):
            shown = seen.opacity[..., None].repeat(3, -1) if row == "opacity" else normal_picture(camera, seen)
            pictures.append(np.rint(shown * 255).astype(np.uint8))
    return contact_sheet(pictures, columns=directions)


def labelled(text: str, picture: np.ndarray) -> np.ndarray:
    """Add a line of text above the picture."""
    line = Image.new("RGB", (picture.shape[1], LABEL), "white")
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(line).text((6, 3), text, fill="black", font=font)
    return np.concatenate([np.asarray(line), picture])
