import re

import pytest
from libraries import OBJ, entry, write_library

from dreamfusion.pocket.data.catalog import clean_name, is_excluded, read_catalog, read_libraries


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Bed 140x190", "bed"),
        ("TV 16:9", "tv"),
        ("Concept Sedan 01", "concept sedan"),
        ("Parking slot 45°", "parking slot"),
        ("Apple iMac 1998", "apple imac"),
        ("Air conditioning - External unit", "air conditioning external unit"),
        ("toy_rabbit-2", "toy rabbit"),
        ("Rubik's cube", "rubik's cube"),
        ("MP3 base", "mp3 base"),
        ("308", "308"),
    ],
)
def test_names_have_no_sizes_and_model_numbers(raw, clean):
    assert clean_name(raw) == clean


def test_an_item_has_name_creator_licence_path_and_rotation(tmp_path):
    path = write_library(
        tmp_path / "test.sh3f",
        entry(1, "Hot dog", "/a/b.obj", modelRotation="-1 0 0 0 1 0 0 0 -1") + entry(2, "Caf\\u00e9 3", "/a/c.obj"),
        {},
    )
    first, second = read_catalog(path)
    assert first.name == "hot dog"
    assert first.tags == ("test", "box")
    assert (first.category, first.creator, first.license) == ("things", "Nobody", "CC0 © nobody")
    assert (first.source, first.model, first.archive) == ("test.sh3f", "a/b.obj", path)
    assert first.rotation == ((-1, 0, 0), (0, 1, 0), (0, 0, -1))
    assert (second.name, second.rotation) == ("café", None)


@pytest.mark.parametrize(
    ("sides", "length"),
    [
        ({"width": "40", "depth": "90.5", "height": "10"}, 90.5),
        ({"width": "40", "depth": "90"}, 0),
        ({"width": "40", "depth": "90", "height": "tall"}, 0),
        ({"width": "40", "depth": "-90", "height": "1e999"}, 0),
    ],
)
def test_the_length_is_that_of_the_longest_side(tmp_path, sides, length):
    (item,) = read_catalog(write_library(tmp_path / "test.sh3f", entry(1, "Hot dog", "/a/b.obj", **sides), {}))
    assert item.length == length


def test_items_get_everyday_names(tmp_path):
    items = entry(1, "Hashtray 2", "/x/y.obj") + entry(2, "Scooter", "/scopia/scooter/scooter.obj")
    items += entry(3, "Scooter", "/katorlegaz/scooter/scooter.obj") + entry(4, "Socket", "/scopia/x/chaussette.obj")
    names = [item.name for item in read_catalog(write_library(tmp_path / "test.sh3f", items, {}))]
    assert names == ["kick scooter", "motor scooter", "sock"]


def test_doors_and_excluded_models_are_left_out(tmp_path):
    items = entry(1, "Castle gate", "/x/y.obj", doorOrWindow="true") + entry(2, "Wall socket", "/x/y.obj")
    items += entry(3, "Box", "/io/texturableBox.obj") + entry(4, "Box", "/io/other.obj")
    assert [item.model for item in read_catalog(write_library(tmp_path / "test.sh3f", items, {}))] == ["io/other.obj"]
    assert is_excluded("oriental rug") and is_excluded("parking slot") and not is_excluded("snowman")


def test_a_folder_is_a_library_with_optional_captions(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("red_fox-2.glb", "deep/b.obj", "notes.txt"):
        (tmp_path / name).touch()
    assert [item.name for item in read_catalog(tmp_path)] == ["b", "red fox"]
    (tmp_path / "captions.csv").write_text("file,name,tags,creator,license\ndeep/b.obj,Big Bear,Animal,Me,CC0\n")
    table = (tmp_path / "captions.csv").read_bytes()
    (tmp_path / "captions.csv").write_bytes(b"\xef\xbb\xbf" + table)  # as Excel writes it
    bear, fox = read_catalog(tmp_path)
    assert (bear.name, bear.tags, bear.creator, bear.license) == ("big bear", ("animal",), "Me", "CC0")
    assert (fox.name, fox.archive) == ("red fox", None)
    (tmp_path / "captions.csv").write_text('\ufefffile;name;tags\ndeep/b.obj;Big Bear;"Animal, bear"\n')
    assert read_catalog(tmp_path)[0].tags == ("animal", "bear")


def test_captions_of_a_missing_file_or_without_names_are_errors(tmp_path):
    (tmp_path / "captions.csv").write_text("file,name\ngone.glb,fox\n")
    with pytest.raises(ValueError, match=r"lists 'gone.glb' \(one of 1\), which is not in"):
        read_catalog(tmp_path)
    (tmp_path / "captions.csv").write_text("file,title\n")
    with pytest.raises(ValueError, match="file and name are required"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("offset, value", [(8, 1), (8, 32), (8, 64), (10, 1), (10, 99), (6, 64)])
def test_an_archive_that_is_encrypted_or_packed_in_an_unknown_way_is_broken(offset, value, tmp_path):
    """Flags, compression method and version of an entry of the archive's directory."""
    path = write_library(tmp_path / "library.sh3f", entry(1, "Box", "/m/box.obj"), {"m/box.obj": OBJ.encode()})
    content = bytearray(path.read_bytes())
    for place in (found.start() for found in re.finditer(b"PK\x01\x02", bytes(content))):
        content[place + offset] ^= value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"library.sh3f is not a readable zip file .* download it again"):
        read_catalog(path)


def test_broken_foreign_and_missing_libraries_are_clear_errors(tmp_path):
    broken = tmp_path / "broken.sh3f"
    broken.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"broken.sh3f is not a readable zip file .* download it again"):
        read_libraries([broken])
    foreign = write_library(tmp_path / "ok.sh3f", "", {})
    foreign.write_bytes(
        foreign.read_bytes().replace(b"PluginFurnitureCatalog", b"SomethingElseThatLong"[:22].ljust(22, b"_"))
    )
    with pytest.raises(ValueError, match="contains no furniture catalogue"):
        read_libraries([foreign])
    with pytest.raises(FileNotFoundError, match=r"gone.sh3f does not exist; give a .sh3f file or a folder"):
        read_libraries([tmp_path / "gone.sh3f"])


def test_libraries_without_models_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="no 3D models in the libraries"):
        read_libraries([tmp_path])


def test_a_rotation_needs_nine_numbers(tmp_path):
    path = write_library(tmp_path / "test.sh3f", entry(1, "Fox", "/a.obj", modelRotation="1 0 0"), {})
    with pytest.raises(ValueError, match=r"modelRotation has 3 numbers \('1 0 0'\), expected 9"):
        read_catalog(path)


def test_a_folder_of_libraries_equals_its_files(tmp_path):
    for name in ("b", "a"):
        write_library(tmp_path / f"{name}.sh3f", entry(1, f"Box {name}", "/m/box.obj"), {"m/box.obj": OBJ.encode()})
    (tmp_path / "loose.obj").write_text(OBJ)
    items = read_libraries([tmp_path])
    assert [(item.name, item.source) for item in items] == [
        ("box a", "a.sh3f"),
        ("box b", "b.sh3f"),
        ("loose", tmp_path.name),
    ]


def test_a_missing_library_says_how_to_get_the_default_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="on Debian `make pretrain-data` downloads the default ones"):
        read_libraries([tmp_path / "gone"])
