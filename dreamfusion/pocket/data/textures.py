"""The pictures of a model's materials: bounded, and reduced to what a render shows."""

import numpy as np
from PIL import Image

MAX_DECODED = 2**28  # pixels of all textures of a model
MAX_TEXTURE = 256  # pixels along the longer side


class Textures:
    """The textures of a model as they are rendered; a picture that several materials share is decoded once."""

    def __init__(self) -> None:
        self._pixels = 0
        self._known: dict[int, np.ndarray] = {}  # by the picture's `id`; the model keeps its pictures

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Raises: ValueError: all pictures so far have more than MAX_DECODED pixels."""
        if id(image) not in self._known:
            self._pixels += image.width * image.height
            if self._pixels > MAX_DECODED:
                raise ValueError(f"its pictures have more than {MAX_DECODED} pixels together")
            self._known[id(image)] = _texture(image)
        return self._known[id(image)]


def _texture(image: Image.Image) -> np.ndarray:
    """(h, w, 4) uint8, at most MAX_TEXTURE pixels a side. Pillow weights RGBA colours by alpha when resizing."""
    pixels = image.convert("RGBA")
    scale = MAX_TEXTURE / max(pixels.size)
    if scale < 1:
        pixels = pixels.resize(
            (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))), Image.Resampling.BOX
        )
    return np.asarray(pixels)
