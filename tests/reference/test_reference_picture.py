"""A user's picture: every kind is read, the object is separated by the stated rule and placed in the frame."""

import numpy as np
import pytest
from PIL import Image

from dreamfusion.error import UserError
from dreamfusion.reference.cutout import centred_box, cut_out, frame, object_box
from dreamfusion.reference.file import LARGEST, read_picture

RED, WHITE = (200, 40, 30), (255, 255, 255)


def disc(size=64, radius=16, middle=(40, 24), color=RED, ground=WHITE):
    """A disc, (H, W, 3) uint8; `middle` is column and row."""
    row, column = np.mgrid[:size, :size] + 0.5
    inside = (column - middle[0]) ** 2 + (row - middle[1]) ** 2 < radius**2
    return np.where(inside[..., None], color, ground).astype(np.uint8), inside


def grey16(pixels):
    return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)


def upside_down(pixels):
    """As a camera held upside down stores it, with the note that says so."""
    image = Image.fromarray(pixels[::-1, ::-1].copy())
    image.getexif()[0x0112] = 3
    return image


KINDS = {
    "rgb.png": Image.fromarray,
    "rgb.jpg": Image.fromarray,
    "rgb.webp": Image.fromarray,
    "rgb.bmp": Image.fromarray,
    "rgb.tif": Image.fromarray,
    "cmyk.jpg": lambda pixels: Image.fromarray(pixels).convert("CMYK"),
    "cmyk.tif": lambda pixels: Image.fromarray(pixels).convert("CMYK"),
    "palette.png": lambda pixels: Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE),
    "palette.gif": lambda pixels: Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE),
    "grey.png": lambda pixels: Image.fromarray(pixels).convert("L"),
    "grey16.png": grey16,
    "grey16.tif": grey16,
    "bits.png": lambda pixels: Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE),
    "turned.jpg": upside_down,
    "alpha.png": lambda pixels: Image.fromarray(
        np.dstack([pixels, np.where((pixels == WHITE).all(2), 0, 255).astype(np.uint8)])
    ),
    "grey_alpha.png": lambda pixels: Image.fromarray(
        np.dstack([pixels[..., 0], np.where((pixels == WHITE).all(2), 0, 255).astype(np.uint8)])
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_of_any_kind_gives_the_object_alone(name, tmp_path):
    pixels, inside = disc()
    image, path = KINDS[name](pixels), tmp_path / name
    image.save(path, **({"exif": image.getexif(), "quality": 95} if name.endswith("jpg") else {}))
    cut = cut_out(read_picture(path), name)
    assert (np.abs((cut[..., 3] > 127) ^ inside).mean()) < 0.02  # the edge of a JPEG
    wanted = {"grey": np.full(3, 200 if name != "grey.png" else 90), "bits": np.zeros(3)}
    color = wanted.get(name[:4], np.array(RED))
    assert np.abs(np.median(cut[inside][:, :3], axis=0) - color).max() < 16


def test_a_large_picture_is_reduced_and_one_above_the_bound_refused(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("L", (3 * LARGEST, 30)).save(path)
    assert read_picture(path).shape == (10, LARGEST, 4)
    monkeypatch.setattr("dreamfusion.image.MAX_PIXELS", 1000)
    with pytest.raises(UserError, match=r"large\.png has 3072 x 30 pixels; at most 1000 are allowed"):
        read_picture(path)


def bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_what_is_no_picture_gets_one_sentence(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(disc()[0]).save(whole)
    with pytest.raises(UserError, match=r"image=.*text\.png cannot be read: it is not a picture; it must be a picture"):
        read_picture(bad(tmp_path, "text.png", b"a cat"))
    with pytest.raises(UserError, match=r"image=.*half\.png cannot be read: "):
        read_picture(bad(tmp_path, "half.png", whole.read_bytes()[:200]))
    with pytest.raises(UserError, match=r"reference\.depth=.*page\.eps cannot be read: it is not a picture"):
        read_picture(bad(tmp_path, "page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "reference.depth")
    with pytest.raises(UserError, match=r"there is no file .*none\.png; type image="):
        read_picture(tmp_path / "none.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match=r"dot\.png has 1 x 1 pixels; at least 16 a side are needed"):
        read_picture(tmp_path / "dot.png")
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif cannot be read: its pixels are floating-point numbers"):
        read_picture(tmp_path / "float.tif")


def opaque(pixels):
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


def test_a_picture_without_an_object_or_a_plain_ground_gets_one_sentence():
    with pytest.raises(UserError, match="it has no object: all of it is like its border or transparent"):
        cut_out(opaque(np.full((32, 32, 3), 90, np.uint8)), "it")
    with pytest.raises(UserError, match="it has no object: all of it"):
        cut_out(np.zeros((32, 32, 4), np.uint8), "it")
    with pytest.raises(UserError, match="it has no object: what is left has 4 x 4 pixels"):
        cut_out(opaque(disc(radius=2, middle=(16, 16))[0]), "it")
    stripes = np.repeat(np.uint8([0, 90, 180, 250] * 8), 32).reshape(32, 32, 1).repeat(3, 2)
    with pytest.raises(UserError, match=r"it has no plain background: \d+% of its border has one colour, at least 80%"):
        cut_out(opaque(stripes), "it")


def test_the_background_is_connected_to_the_border_or_a_hole_of_its_very_colour_and_dust_is_removed():
    pixels, inside = disc(ground=(250, 250, 240))
    pixels[20:24, 36:44] = (235, 240, 225)  # a bright part of the disc
    pixels[26:30, 36:44] = (250, 248, 240)  # a hole
    pixels[60:62, 2:4] = RED  # dust
    pixels[62:, 30:40] = RED  # an object that touches the border
    found = cut_out(opaque(pixels), "it")[..., 3] > 127
    wanted = inside.copy()
    wanted[26:30, 36:44] = False
    wanted[62:, 30:40] = True
    assert (found == wanted).all()


@pytest.mark.parametrize("target", [None, (0.1, 0.3, 0.5, 0.9), (0.0, 0.0, 0.05, 0.05)])
def test_the_object_is_moved_to_its_box(target):
    """To one of other proportions with the middle and the area of the box."""
    cut = cut_out(opaque(disc(size=128, radius=20)[0]), "it")
    box = object_box(cut)
    assert box == (20, 4, 60, 44)
    target = target or centred_box(box, 0.8)
    moved = frame(cut, box, target, 200)
    left, top, right, bottom = np.array(object_box(moved)) / 200
    assert abs(left + right - target[0] - target[2]) < 0.03 and abs(top + bottom - target[1] - target[3]) < 0.03
    area = (target[2] - target[0]) * (target[3] - target[1])
    assert abs(((right - left) * (bottom - top) / area) ** 0.5 - 1) < 0.1
    assert np.abs(moved[moved[..., 3] > 250][:, :3].astype(int) - RED).max() <= 1


def test_the_longer_side_of_a_centred_box_fills_its_share():
    assert centred_box((10.0, 0.0, 20.0, 40.0), 0.8) == pytest.approx((0.4, 0.1, 0.6, 0.9))


def test_a_depth_of_16_bits_keeps_the_range_that_it_uses(tmp_path):
    """Millimetres are a few thousand of 65,536."""
    ramp = np.zeros((32, 32), np.uint16)
    ramp[8:24] = np.linspace(500, 1500, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    read = read_picture(tmp_path / "depth.png", "reference.depth", nearest=True, stretch=True)[..., 0]
    assert len(np.unique(read[16])) == 32 and (read[0] == 0).all() and read.max() == 255
    assert (np.diff(read[16].astype(int)) > 0).all()
    assert len(np.unique(read_picture(tmp_path / "depth.png")[16, :, 0])) < 8
