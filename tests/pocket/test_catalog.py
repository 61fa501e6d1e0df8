from __future__ import annotations

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
def test_sizes_and_model_numbers_are_no_part_of_a_name(raw, clean):
    assert clean_name(raw) == clean


def test_a_library_tells_name_author_licence_place_and_pose(tmp_path):
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


def test_items_are_called_what_a_person_would_call_them(tmp_path):
    items = entry(1, "Hashtray 2", "/x/y.obj") + entry(2, "Scooter", "/scopia/scooter/scooter.obj")
    items += entry(3, "Scooter", "/katorlegaz/scooter/scooter.obj") + entry(4, "Socket", "/scopia/x/chaussette.obj")
    names = [item.name for item in read_catalog(write_library(tmp_path / "test.sh3f", items, {}))]
    assert names == ["kick scooter", "motor scooter", "sock"]


def test_doors_and_what_is_no_object_are_left_out(tmp_path):
    items = entry(1, "Castle gate", "/x/y.obj", doorOrWindow="true") + entry(2, "Wall socket", "/x/y.obj")
    items += entry(3, "Box", "/io/texturableBox.obj") + entry(4, "Box", "/io/other.obj")
    assert [item.model for item in read_catalog(write_library(tmp_path / "test.sh3f", items, {}))] == ["io/other.obj"]
    assert is_excluded("oriental rug") and is_excluded("parking slot") and not is_excluded("snowman")


def test_a_folder_is_a_library_and_captions_name_its_models(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("red_fox-2.glb", "deep/b.obj", "notes.txt"):
        (tmp_path / name).touch()
    assert [item.name for item in read_catalog(tmp_path)] == ["b", "red fox"]
    (tmp_path / "captions.csv").write_text("file,name,tags,creator,license\ndeep/b.obj,Big Bear,Animal,Me,CC0\n")
    bear, fox = read_catalog(tmp_path)
    assert (bear.name, bear.tags, bear.creator, bear.license) == ("big bear", ("animal",), "Me", "CC0")
    assert (fox.name, fox.archive) == ("red fox", None)


def test_captions_for_a_missing_file_or_without_names_are_errors(tmp_path):
    (tmp_path / "captions.csv").write_text("file,name\ngone.glb,fox\n")
    with pytest.raises(ValueError, match=r"names 'gone.glb' \(1 such\), which is not in"):
        read_catalog(tmp_path)
    (tmp_path / "captions.csv").write_text("file;name\n")
    with pytest.raises(ValueError, match="needs at least file and name"):
        read_catalog(tmp_path)


def test_a_broken_a_foreign_and_a_missing_library_are_one_clear_error_each(tmp_path):
    broken = tmp_path / "broken.sh3f"
    broken.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"broken.sh3f is not a readable zip file .* download it again"):
        read_libraries([broken])
    foreign = write_library(tmp_path / "ok.sh3f", "", {})
    foreign.write_bytes(
        foreign.read_bytes().replace(b"PluginFurnitureCatalog", b"SomethingElseThatLong"[:22].ljust(22, b"_"))
    )
    with pytest.raises(ValueError, match="holds no furniture catalogue"):
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


def test_a_folder_of_libraries_is_read_as_if_each_was_given(tmp_path):
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
    with pytest.raises(FileNotFoundError, match="on Debian `make pretrain-data` gets the default ones"):
        read_libraries([tmp_path / "gone"])
