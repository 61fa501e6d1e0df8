"""Libraries from untrusted sources: bombs, foreign paths and huge pictures are refused, and the other models remain."""

import base64
import json
import os
import struct
import zipfile
from contextlib import nullcontext

import pytest
from libraries import MTL, OBJ, entry, write_library
from PIL import Image

from dreamfusion import image as pictures
from dreamfusion.pocket.data import assets, catalog, textures
from dreamfusion.pocket.data.assets import AssetError, load_asset
from dreamfusion.pocket.data.catalog import clean_name, read_catalog
from dreamfusion.pocket.data.renders import render_libraries


@pytest.fixture
def small(monkeypatch):
    """Bounds that a test reaches at once."""
    monkeypatch.setattr(catalog, "LARGEST_FILE", 2**20)
    monkeypatch.setattr(assets, "LARGEST_FILE", 2**20)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)


def bomb(path, name, content):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def folder(tmp_path, mtl=MTL, **files):
    library = tmp_path / "library"
    library.mkdir()
    (library / "box.obj").write_text(OBJ)
    (library / "box.mtl").write_text(mtl)
    for name, content in files.items():
        (library / name.replace("_", ".")).write_bytes(content)
    (item,) = [item for item in read_catalog(library) if item.name == "box"]
    return item


def picture(path, size):
    Image.new("1", size).save(path)
    return path.read_bytes()


def glb(header, binary=b""):
    text = json.dumps({"asset": {"version": "2.0"}} | header).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<I4s", len(binary), b"BIN\0") + binary if binary else b""
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(chunk), len(text), b"JSON") + text + chunk


def test_a_model_that_unpacks_to_gigabytes_is_refused_and_the_other_one_rendered(tmp_path, small):
    items = entry(1, "Bomb", "/b.obj") + entry(2, "Box", "/m/box.obj")
    path = write_library(tmp_path / "a.sh3f", items, {"m/box.obj": OBJ.encode(), "m/box.mtl": MTL.encode()})
    assert bomb(path, "b.obj", b"#" * 2**24).stat().st_size < 30_000
    with pytest.raises(AssetError, match=r"b\.obj in .*a\.sh3f is larger than 1 MiB"):
        load_asset(read_catalog(path)[0])
    assert [item.name for item in render_libraries([path], tmp_path / "r", 1, 8, workers=1).items] == ["box"]


def test_a_catalogue_that_unpacks_to_gigabytes_is_refused(tmp_path, small):
    path = bomb(tmp_path / "a.sh3f", "PluginFurnitureCatalog.properties", b"#" * 2**24)
    with pytest.raises(ValueError, match="is larger than 1 MiB"):
        read_catalog(path)


@pytest.mark.parametrize(
    "line", [b"x" * 200_000, b"\xff\xfe", b"#" * 2**21, b"none.glb,a"], ids=lambda line: str(line[:3])
)
def test_captions_that_are_no_table_are_one_sentence(tmp_path, small, line):
    item = folder(tmp_path, captions_csv=b"file,name\nbox.obj,box\n")
    (item.folder / "captions.csv").write_bytes(b"name,file\nonly a name\n" + line)
    with pytest.raises(ValueError, match=r"captions\.csv (is no table|is larger than|lists '')"):
        read_catalog(item.folder)
    (item.folder / "captions.csv").unlink()
    (item.folder / "captions.csv").symlink_to("/dev/zero")
    assert [one.name for one in read_catalog(item.folder)] == ["box"]


@pytest.mark.parametrize("name", ["1 " * 20_000, " " * 50_000 + "x", "a" * 10**6])
def test_a_long_name_ends(name, tmp_path):
    assert len(clean_name(name)) <= catalog.LONGEST_NAME
    path = write_library(tmp_path / "a.sh3f", entry(1, f"a{name}b", "/m.obj"), {})
    assert len(read_catalog(path)) == 1


def test_whitespace_without_end_is_read_in_linear_time(tmp_path):
    item = folder(tmp_path)
    (tmp_path / "library" / "box.obj").write_text("mtllib box.mtl" + " " * 200_000 + "x\n" + OBJ)
    assert all(material.color != (1, 0, 0) for material in load_asset(item).materials)  # no such materials


@pytest.mark.parametrize("outside", ["/dev/zero", "/etc/passwd", "../secret.png", "link.png", "pipe.png"])
def test_a_texture_outside_of_the_library_is_not_read(outside, tmp_path):
    picture(tmp_path / "secret.png", (4, 4))
    item = folder(tmp_path, MTL.replace("C:\\Users\\someone\\side.png", outside))
    (tmp_path / "library" / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "library" / "pipe.png")
    try:
        assert all(material.texture is None for material in load_asset(item).materials)
    except AssetError as error:
        assert "is outside of the library" in str(error)


@pytest.mark.parametrize("outside", ["../../secret.png", "/etc/hostname", "..\\..\\secret.png"])
def test_an_archives_paths_stay_in_the_archive(outside, tmp_path):
    picture(tmp_path / "secret.png", (4, 4))
    mtl = MTL.replace("C:\\Users\\someone\\side.png", outside)
    files = {"m/box.obj": OBJ.encode(), "m/box.mtl": mtl.encode(), "../../escaped.png": b"x"}
    path = write_library(tmp_path / "a.sh3f", entry(1, "Box", "/m/box.obj"), files)
    assert all(material.texture is None for material in load_asset(read_catalog(path)[0]).materials)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.sh3f", "secret.png"]  # nothing is unpacked


def test_a_huge_picture_is_refused_by_its_header(tmp_path, small):
    item = folder(tmp_path, side_png=picture(tmp_path / "big.png", (11, 10)))
    with pytest.raises(AssetError, match=r"side\.png has 11 x 10 pixels; at most 100"):
        load_asset(item)


def test_a_picture_of_400_megapixels_is_refused(tmp_path):
    item = folder(tmp_path, side_png=picture(tmp_path / "big.png", (20_000, 20_000)))
    with pytest.raises(AssetError, match=r"side\.png is too large"):
        load_asset(item)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"accessors": [{"count": 2**31, "componentType": 5126, "type": "VEC3"}]}, "an accessor has 2147483648"),
        ({"images": [{"bufferView": 0}], "bufferViews": [{"buffer": 0, "byteLength": 0}]}, "11 x 10 pixels"),
        ({"images": [{"uri": "data"}]}, "11 x 10 pixels"),
        ({"nodes": [{}] * 10_001}, "10001 nodes, at most 10000"),
    ],
)
def test_a_glb_that_claims_too_much_is_refused(header, reason, tmp_path, small):
    big = picture(tmp_path / "big.png", (11, 10))
    for view in header.get("bufferViews", []):
        view["byteLength"] = len(big)
    for image in header.get("images", []):
        image |= {"uri": "data:image/png;base64," + base64.b64encode(big).decode()} if "uri" in image else {}
    item = folder(tmp_path, evil_glb=glb(header, big))
    evil = next(item for item in read_catalog(item.folder) if item.name == "evil")
    with pytest.raises(AssetError, match=reason):
        load_asset(evil)


def test_the_pictures_of_a_model_are_bounded_together(tmp_path, monkeypatch):
    """A picture of 130 KB may take 128 MiB, and each material may name it again."""
    monkeypatch.setattr(textures, "MAX_DECODED", 2 * 99)
    lines = [line for number in range(3) for line in (f"newmtl m{number}", "map_Kd big.png")]
    item = folder(tmp_path, "\n".join(lines), big_png=picture(tmp_path / "big.png", (11, 9)))
    for count, bounded in ((2, False), (3, True)):
        faces = "".join(f"usemtl m{number}\nf 1/1 2/1 3/1\n" for number in range(count))
        (tmp_path / "library" / "box.obj").write_text(f"mtllib box.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\n{faces}")
        with pytest.raises(AssetError, match="more than 198 pixels together") if bounded else nullcontext():
            assert len(load_asset(item).materials) == count


def test_a_glb_reads_no_file_outside_of_its_library(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"x" * 36)
    item = folder(tmp_path, evil_glb=glb({"buffers": [{"uri": "../secret.bin", "byteLength": 36}]}))
    evil = next(item for item in read_catalog(item.folder) if item.name == "evil")
    with pytest.raises(AssetError, match=r"secret\.bin is outside of the library"):
        load_asset(evil)
