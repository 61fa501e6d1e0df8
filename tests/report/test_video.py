from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.image import as_uint8, contact_sheet, write_image
from dreamfusion.report.video import write_video

RED, GREEN, BLUE = (200, 30, 40), (30, 180, 60), (40, 60, 210)


def plain(color: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_video_read_back_has_every_frame_in_its_color(tmp_path: Path) -> None:
    frames = [plain(color) for color in (RED, GREEN, BLUE) for _ in range(5)]
    write_video(frames, tmp_path / "turn.mp4", fps=25)
    decoded = decode(tmp_path / "turn.mp4")
    assert len(decoded) == 15
    for original, read in zip(frames, decoded, strict=True):
        assert read.shape == original.shape
        assert np.abs(read.astype(int) - original.astype(int)).max() <= 6  # 8-bit YCbCr and H.264


def test_video_has_the_format_that_browsers_support(tmp_path: Path) -> None:
    write_video([plain(RED)] * 3, tmp_path / "turn.mp4", fps=25)
    with av.open(str(tmp_path / "turn.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        assert stream.codec_context.colorspace == 1  # BT.709
    data = (tmp_path / "turn.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index precedes the frames


def test_odd_sizes_are_padded_to_even_ones(tmp_path: Path) -> None:
    write_video([plain(GREEN, 33, 47)] * 2, tmp_path / "turn.mp4")
    decoded = decode(tmp_path / "turn.mp4")[0]
    assert decoded.shape == (34, 48, 3)
    assert np.abs(decoded[-1, -1].astype(int) - GREEN).max() <= 6


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        for _ in range(4):
            yield plain(BLUE)

    write_video(frames(), tmp_path / "deep" / "turn.mp4")
    assert len(decode(tmp_path / "deep" / "turn.mp4")) == 4


def test_video_without_frames_or_with_two_sizes_is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no frame"):
        write_video([], tmp_path / "turn.mp4")
    with pytest.raises(ValueError, match=r"frame 1 has shape \(32, 64, 3\)"):
        write_video([plain(RED), plain(RED, 32)], tmp_path / "turn.mp4")
    with pytest.raises(ValueError, match="frame 0 is float64"):
        write_video([plain(RED) / 255.0], tmp_path / "turn.mp4")
    with pytest.raises(ValueError, match="the only format is mp4"):
        write_video([plain(RED)], tmp_path / "turn.gif")
    assert not list(tmp_path.iterdir())


def test_image_read_back_is_the_same(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    write_image(image, tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as read:
        np.testing.assert_array_equal(np.asarray(read), image)
    with pytest.raises(ValueError, match="the only format is png"):
        write_image(image, tmp_path / "image.jpg")


def test_contact_sheet_is_filled_row_by_row() -> None:
    sheet = contact_sheet([plain(RED, 2, 3), plain(GREEN, 2, 3), plain(BLUE, 2, 3)], columns=2, gap=1, background=7)
    assert sheet.shape == (5, 7, 3)
    assert (sheet[:2, :3] == RED).all()
    assert (sheet[:2, 4:] == GREEN).all()
    assert (sheet[3:, :3] == BLUE).all()
    assert (sheet[2] == 7).all()
    assert (sheet[:, 3] == 7).all()
    assert (sheet[3:, 4:] == 7).all()  # the empty cell


def test_contact_sheet_is_not_wider_than_its_images() -> None:
    assert contact_sheet([plain(RED, 2, 3)] * 2, columns=8).shape == (2, 6, 3)
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], columns=2)
    with pytest.raises(ValueError, match="image 1 has shape"):
        contact_sheet([plain(RED, 2, 3), plain(RED, 3, 3)], columns=2)


def test_colors_are_rounded_and_clamped_to_bytes() -> None:
    rgb = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2, 254.6 / 255.0]).view(1, 3, 1, 2)
    image = as_uint8(rgb)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[0, 0], [[0, 128, 255], [0, 255, 255]])
