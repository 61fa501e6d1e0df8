"""Rendered frames to files: an MP4 that plays everywhere, PNG images, and contact sheets of many images in one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace
from PIL import Image
from torch import Tensor

from dreamfusion.files import replacing

QUALITY = 20  # H.264 constant rate factor: 18 cannot be told from the source, 23 is x264's default
BT709 = 1  # the code of ITU-T H.273 for primaries, transfer and matrix of HD video
LIMITED_RANGE = 1  # 16..235, what players assume


def write_video(frames: Iterable[np.ndarray], path: Path, fps: int = 30) -> None:
    """H.264 in MP4 from frames (H, W, 3) uint8 of one size, which may come one by one from a generator.

    4:2:0 colour needs even sizes, so an odd last row or column is doubled. The index stands at the head of the file
    ("faststart"), so that a browser plays it while it loads. The colours are tagged as what they are: untagged
    video changes its colours from player to player.

    Raises:
        ValueError: no frame, or a frame that is not (H, W, 3) uint8 or has another size than the first.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"cannot write the video {path.name!r}: the only format is mp4")
    with replacing(path) as draft, av.open(str(draft), "w", options={"movflags": "faststart"}) as container:
        stream: av.VideoStream | None = None
        size: tuple[int, ...] = ()
        for index, frame in enumerate(frames):
            if stream is None:
                size = _checked(frame, "frame 0").shape
                stream = _open_stream(container, size, fps)
            elif _checked(frame, f"frame {index}").shape != size:
                raise ValueError(f"frame {index} has shape {frame.shape}, the first one has {size}")
            container.mux(stream.encode(_video_frame(frame)))
        if stream is None:
            raise ValueError(f"cannot write the video {path.name!r}: there is no frame")
        container.mux(stream.encode(None))


def write_image(image: np.ndarray, path: Path) -> None:
    """A PNG of (H, W, 3) uint8."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot write the image {path.name!r}: the only format is png")
    with replacing(path) as draft:
        Image.fromarray(_checked(image, "image")).save(draft, optimize=True)


def contact_sheet(images: Sequence[np.ndarray], columns: int, gap: int = 0, background: int = 255) -> np.ndarray:
    """(H, W, 3) uint8 images of one size side by side, row by row, with `gap` pixels of `background` between them."""
    if len(images) == 0 or columns < 1:
        raise ValueError(f"a contact sheet needs an image and a column, got {len(images)} images, {columns} columns")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height, width, _ = _checked(images[0], "image 0").shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, dtype=np.uint8)
    for index, image in enumerate(images):
        if _checked(image, f"image {index}").shape != images[0].shape:
            raise ValueError(f"image {index} has shape {image.shape}, the first one has {images[0].shape}")
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def as_uint8(rgb: Tensor) -> np.ndarray:
    """Rendered colours (B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8, rounded to the nearest."""
    return (rgb.detach().float().clamp(0.0, 1.0) * 255.0).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _open_stream(container: av.container.OutputContainer, size: tuple[int, ...], fps: int) -> av.VideoStream:
    height, width, _ = size
    stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(QUALITY), "preset": "medium"})
    stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
    codec = stream.codec_context
    codec.color_primaries = codec.color_trc = codec.colorspace = BT709
    codec.color_range = LIMITED_RANGE
    return stream


def _video_frame(frame: np.ndarray) -> av.VideoFrame:
    even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} is {image.dtype} of shape {image.shape}, expected uint8 of shape (H, W, 3)")
    return image
