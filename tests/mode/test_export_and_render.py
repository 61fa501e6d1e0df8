"""The modes that need a checkpoint and nothing else: every format, any size, the newest run by default."""

import shutil

import av
import pytest
import trimesh
from runs import files


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / finished.run.relative_to(finished.folder)


def without_guidance(monkeypatch):
    """Neither mode may touch a prior."""

    def refuse(*_, **__):
        raise AssertionError("a prior was loaded")

    monkeypatch.setattr("dreamfusion.guidance.pocket.PocketPrior.__init__", refuse)


@pytest.mark.parametrize("export", ["glb", "obj", "ply", "stl"])
def test_the_newest_run_is_exported_in_every_format(export, copied, launch, monkeypatch):
    without_guidance(monkeypatch)
    folder, run = copied
    (run / "mesh.glb").unlink()
    before = files(folder)
    ended = launch(folder, "mode=export", f"export={export}", "export.resolution=24")
    assert ended.status == 0, ended.text
    assert files(folder) - before == {(run / f"mesh.{export}").relative_to(folder).as_posix()}
    mesh = trimesh.load(run / f"mesh.{export}", force="mesh", process=True)
    assert len(mesh.faces) > 100
    assert f"mesh.{export}: {len(mesh.faces)} triangles" in ended.text


def test_a_turntable_in_another_size(copied, launch, monkeypatch):
    without_guidance(monkeypatch)
    folder, run = copied
    ended = launch(folder, "mode=render", "mode.size=40", "mode.frames=3", f"checkpoint={run}")
    assert ended.status == 0, ended.text
    with av.open(str(run / "turntable_40.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, sum(1 for _ in video.decode(stream))) == (40, 40, 3)


def test_the_contact_sheet_shows_the_newest_run_of_a_prompt(copied, launch):
    folder, _ = copied
    (folder / "outputs" / "train" / "a-cats-hat-b-x-b").rename(folder / "outputs" / "train" / "a-cat")
    ended = launch(folder, "mode=sheet", "mode.prompts=[a cat]", "mode.directions=2", "mode.size=24")
    assert ended.status == 0, ended.text
    assert (folder / "outputs" / "contact_sheet.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mode=export", "export.format=fbx"], "export.format is fbx; the formats are glb, obj, ply, stl"),
        (["mode=export", "export.threshold=1e9"], "the field is empty at threshold 1e+09"),
        (["mode=export", "export.threshold=-1"], "export.threshold is -1; it is auto, or a density above 0"),
        (["mode=export", "export.resolution=0"], "export.resolution is 0; at least 8 cells a side"),
        (["mode=export", "export.min_piece=2"], "export.min_piece is 2; it is a share"),
        (["mode=export", "experiment=smoke"], "mode=export got an unexpected keyword argument 'preview_every'"),
        (["mode=render", "mode.frames=0"], "mode.frames is 0; it must be at least 1"),
        (["mode=render", "mode.size=0"], "mode.size is 0; it must be at least 1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_settings_are_one_line(arguments, message, copied, launch):
    folder, _ = copied
    ended = launch(folder, *arguments)
    assert ended.status == 1
    assert "Traceback" not in ended.text
    assert ended.text.startswith("error: ")
    assert message in ended.text
