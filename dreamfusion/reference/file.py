"""Read the picture of an object in a user's file as upright RGBA: bounded before it is decoded, of any common kind."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dreamfusion.error import UserError
from dreamfusion.image import check_picture

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # others would start foreign programs, as EPS does
SMALLEST = 16  # pixels a side
LARGEST = 1024  # pixels along the longer side; larger ones are reduced, since views have a few hundred pixels
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # modes of Pillow that hold 16 bits of grey


def read_picture(path: Path, setting: str = "image", nearest: bool = False, stretch: bool = False) -> np.ndarray:
    """(H, W, 4) uint8, not premultiplied, upright as EXIF says, at most LARGEST pixels along the longer side.

    Colour profiles are ignored. Reduced by area, or with `nearest` to single pixels, which mixes no depths. Of a file
    with 16 bits of grey, `stretch` keeps the range that it uses: depths in millimetres are a few thousand of 65,536.

    Raises:
        UserError: the file that `setting` names is missing, no picture, damaged, too small or too large.
    """
    try:
        content = path.expanduser().read_bytes()
        check_picture(content, path.name)
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=FORMATS) as file:
            warnings.simplefilter("ignore")  # about damaged metadata
            pixels = _as_rgba(ImageOps.exif_transpose(file), stretch)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; type {setting}=... with a picture") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # SyntaxError: a broken PNG
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is not a picture"
        kinds = ", ".join(FORMATS)
        raise UserError(f"{setting}={path} cannot be read: {reason}; it must be a picture, one of {kinds}") from error
    if min(pixels.size) < SMALLEST:
        raise UserError(
            f"{setting}={path} has {pixels.width} x {pixels.height} pixels; at least {SMALLEST} a side are needed"
        )
    scale = LARGEST / max(pixels.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in pixels.size]
        method = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX
        pixels = pixels.resize((size[0], size[1]), method)  # Pillow weights colours by alpha
    return np.asarray(pixels)


def _as_rgba(image: Image.Image, stretch: bool) -> Image.Image:
    """Any mode of Pillow; 16 bits become 8, of the values above 0 with `stretch`."""
    if image.mode in DEEP:
        grey = np.asarray(image).astype(np.float64) / 257
        known = grey[grey > 0]  # 0 is where nothing was measured
        if stretch and len(known) and known.min() < known.max():
            grey = np.where(grey > 0, (grey - known.min()) / (known.max() - known.min()) * 254 + 1, 0)
        image = Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, without a white that is known")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        image = image.convert("RGB")  # CMYK, YCbCr, ...
    return image.convert("RGBA")
