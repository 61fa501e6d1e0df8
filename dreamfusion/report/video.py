"""Encode rendered frames as an MP4 that browsers and players support."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace

from dreamfusion.files import replacing
from dreamfusion.image import checked_image

QUALITY = 20  # H.264 constant rate factor: 18 is visually lossless, 23 is the default of x264
BT709 = 1  # the code of ITU-T H.273 for primaries, transfer and matrix of HD video
LIMITED_RANGE = 1  # luma 16 to 235, which players assume


def write_video(frames: Iterable[np.ndarray], path: Path, fps: int = 30) -> None:
    """Encode frames (H, W, 3) uint8 of equal size, for example from a generator, as H.264 in MP4.

    4:2:0 chroma needs even sizes, so an odd last row or column is repeated. The index precedes the frames
    ("faststart"), so that a browser plays the video while loading. The colour space is tagged as BT.709, because
    players interpret untagged colours differently.

    Raises:
        ValueError: there is no frame, or a frame is not (H, W, 3) uint8, or frames differ in size.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"cannot write the video {path.name!r}: the only format is mp4")
    with replacing(path) as draft, av.open(str(draft), "w", options={"movflags": "faststart"}) as container:
        stream: av.VideoStream | None = None
        size: tuple[int, ...] = ()
        for index, frame in enumerate(frames):
            if stream is None:
                size = checked_image(frame, "frame 0").shape
                stream = _open_stream(container, size, fps)
            elif checked_image(frame, f"frame {index}").shape != size:
                raise ValueError(f"frame {index} has shape {frame.shape}, the first one has {size}")
            container.mux(stream.encode(_video_frame(frame)))
        if stream is None:
            raise ValueError(f"cannot write the video {path.name!r}: there is no frame")
        container.mux(stream.encode(None))


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
