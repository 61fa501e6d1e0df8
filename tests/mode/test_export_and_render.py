"""The modes that need only a checkpoint: every format, any size, the newest run by default."""

import errno
import html
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import trimesh
from launched import PROMPT, files
from omegaconf import OmegaConf
from options import option
from PIL import Image

from dreamfusion.error import CheckpointError
from dreamfusion.mode import render
from dreamfusion.runs import find
from dreamfusion.runs.find import find_runs
from dreamfusion.scene.picture import render_picture


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / finished.run.relative_to(finished.folder)


def without_guidance(monkeypatch):
    """No mode may load a prior."""

    def refuse(*_, **__):
        raise AssertionError("a prior was loaded")

    monkeypatch.setattr("dreamfusion.guidance.pocket.PocketPrior.__init__", refuse)


MADE = {"obj": {"mesh.obj", "mesh.mtl", "mesh.png"}}
FAST = ["export.resolution=24", "export.texture=64", "export.faces=500", "export.threshold=5"]


@pytest.mark.parametrize("export", ["glb", "obj", "ply", "stl"])
def test_the_newest_run_is_exported_in_every_format(export, copied, launch, monkeypatch):
    without_guidance(monkeypatch)
    folder, run = copied
    (run / "mesh.glb").unlink()
    before = files(folder)
    fitted = export == "glb"  # the density of the surface, which takes half of the time
    ended = launch(folder, "mode=export", f"export={export}", *FAST, *(["export.threshold=auto"] if fitted else []))
    assert ended.status == 0, ended.text
    made = MADE.get(export, {f"mesh.{export}"})
    assert files(folder) - before == {(run / name).relative_to(folder).as_posix() for name in made}
    mesh = trimesh.load(run / f"mesh.{export}", force="mesh", process=False)
    untextured = export in ("ply", "stl")  # of which FAST wants a texture, too
    assert (f"export={export} has no texture, and" in ended.text) == untextured
    assert export != "ply" or len(np.unique(mesh.visual.vertex_colors, axis=0)) > 10
    assert len(mesh.faces) > 100
    assert f"mesh.{export}: {len(mesh.faces)} triangles, watertight, " in ended.text
    assert (" surface at density" in ended.text and "by density alone" in ended.text) == fitted
    assert "silhouette IoU" in ended.text
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary[f"{export}_megabytes"] == pytest.approx(sum((run / n).stat().st_size for n in made) / 1e6, rel=1e-3)
    assert "glb_megabytes" in summary  # of the training's mesh


def test_a_printed_mesh_is_a_hundred_millimetres_long_and_stands_on_the_plate(copied, launch):
    folder, run = copied
    (run / "mesh.lod7.stl").write_text("of an export with seven levels")
    (run / "mesh.lod1.glb").write_text("of an export in another format")
    ended = launch(folder, "mode=export", "export=stl", *FAST, "export.levels=[200]", f"checkpoint={run}")
    assert ended.status == 0, ended.text
    printed, summary = trimesh.load(run / "mesh.stl"), json.loads((run / "summary.json").read_text(encoding="utf-8"))
    sides = printed.vertices.max(0)
    np.testing.assert_allclose(printed.vertices.min(0), 0, atol=1e-6)
    coarse = trimesh.load(run / "mesh.lod1.stl")
    assert not (run / "mesh.lod7.stl").exists() and (run / "mesh.lod1.glb").is_file()
    assert f"level 1 {len(coarse.faces)} triangles" in ended.text and len(coarse.faces) < 210
    np.testing.assert_allclose(np.ptp(coarse.vertices, axis=0), sides, rtol=0.05)
    assert sides.max() == pytest.approx(100, rel=1e-5)
    assert "{:.3g} x {:.3g} x {:.3g} mm, z up".format(*sides) in ended.text
    scale = (printed.volume / summary["volume"]) ** (1 / 3)  # mm in a scene unit
    facts = (printed.volume / 1000, scale * summary["thinnest_wall"])
    assert "volume {:.3g} cm3, thinnest wall {:.2g} mm, overhang ".format(*facts) in ended.text
    overhang = re.search(r"overhang (\d+)%", ended.text)
    assert overhang and int(overhang[1]) == pytest.approx(
        100 * summary["overhang"], abs=0.51
    )  # summary has four digits


def test_a_body_for_simulators_is_written_beside_its_mesh(copied, launch):
    folder, run = copied
    others = {"mesh.obj", "mesh.mtl", "mesh.png", "mesh.lod1.obj", "mesh.lod1.glb"}
    for name in others:
        (run / name).write_text("of another export")
    ended = launch(folder, "mode=export", "export=urdf", *FAST, "export.concavity=1", f"checkpoint={run}")
    assert ended.status == 0, ended.text
    assert {(run / name).read_text() for name in others} == {"of another export"}
    solid = trimesh.load(run / "robot.obj", force="mesh")
    assert f"mesh.urdf: convex parts: 1, {1000 * solid.volume:.3g} kg" in ended.text
    part = trimesh.load(run / "mesh.part00.stl")
    np.testing.assert_allclose(part.bounds, solid.bounds, atol=1e-5)  # metres, in the frame of the mesh
    assert (run / "mesh.xml").is_file()


def test_many_runs_are_exported_at_once(copied, launch, monkeypatch):
    folder, run = copied
    twin = folder / "outputs" / "studies" / "my-pets" / "a-cat" / "0123abcd"
    shutil.copytree(run, twin)
    for choice, number in (("run=all", 2), ("study=My pets", 1)):
        for mesh in (run / "mesh.ply", twin / "mesh.ply"):
            mesh.unlink(missing_ok=True)
        ended = launch(folder, "mode=export", "export=ply", *FAST, choice)
        assert ended.status == 0, ended.text
        assert (run / "mesh.ply").is_file() + (twin / "mesh.ply").is_file() == number
        assert f"{number} of {number} runs" in ended.text
    monkeypatch.chdir(folder)
    Path("My pets").mkdir()  # not the study of this name
    found = [place.resolve() for place in (run, twin)]
    for choice, runs in (("all", found), ("outputs/train", found[:1]), ("outputs/*/*/a-*", found[1:]),
                         ("my-pets", found[1:]), (str(run), found[:1])):  # fmt: skip
        assert {place.resolve() for place in find_runs(choice)} == set(runs), choice


def test_a_run_that_cannot_be_read_among_many_is_skipped_and_a_full_disk_is_not(monkeypatch, caplog):
    monkeypatch.setattr(find, "find_runs", lambda choice: [Path("a"), Path("b")])
    monkeypatch.setattr(find, "find_checkpoint", Path)
    faults = {"a": OSError(errno.EACCES, "Permission denied", "a")}

    def work(path):
        if path.name in faults:
            raise faults[path.name]
        return path.name

    cfg = OmegaConf.create({"run": "all", "study": None})
    assert find.over_runs(cfg, work, "no mesh") == ["b"]
    assert "a: no mesh: cannot use a: Permission denied" in caplog.text
    faults["a"] = OSError(errno.ENOSPC, "No space left", "a")
    with pytest.raises(OSError, match="No space left"):
        find.over_runs(cfg, work, "no mesh")
    with pytest.raises(CheckpointError, match=r"run=out\*\*x is no pattern of folders|no run at out\*\*x"):
        find_runs("out**x")


def test_a_broken_run_among_many_is_skipped_with_a_warning(copied, launch):
    folder, run = copied
    twin = run.with_name("a")
    shutil.copytree(run, twin)
    (twin / "checkpoints" / "last.ckpt").write_bytes(b"broken")
    ended = launch(folder, "mode=export", "export=ply", *FAST, "run=all")
    assert ended.status == 0, ended.text
    assert "a: no mesh: " in ended.text
    assert "is the file complete?" in ended.text
    assert (run / "mesh.ply").is_file()


def test_the_summary_of_a_run_holds_its_figures(finished):
    summary = json.loads((finished.run / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
    assert {"seconds", "triangles", "prior_score", "silhouette_iou", "threshold_iou", "watertight"} <= set(summary)
    assert {"volume", "thinnest_wall", "overhang"} <= set(summary)
    page = (finished.run / "index.html").read_text(encoding="utf-8")
    assert "<dt>thinnest wall</dt>" in page and "<dt>overhang</dt>" in page and ">watertight</dd>" in page


def test_a_turntable_in_another_size(copied, launch, monkeypatch):
    without_guidance(monkeypatch)
    folder, run = copied
    ended = launch(folder, "mode=render", "mode.size=40", "mode.frames=3", f"checkpoint={run}")
    assert ended.status == 0, ended.text
    with av.open(str(run / "turntable_40.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, sum(1 for _ in video.decode(stream))) == (40, 40, 3)


def test_the_pictures_are_those_of_the_runs_that_are_named_not_of_the_newest(copied, launch):
    folder, run = copied
    newest = folder / "outputs" / "studies" / "pets" / "a-cat" / "0123abcd"
    shutil.copytree(run, newest)
    os.utime(newest / "checkpoints" / "last.ckpt")
    small = ["mode=render", "mode.pictures=[webp]", "mode.size=16", "mode.frames=2"]
    assert launch(folder, *small, f"run={run.relative_to(folder)}").status == 0
    assert (run / "turntable_16.webp").is_file() and not (newest / "turntable_16.webp").exists()
    (run / "turntable_16.webp").unlink()
    ended = launch(folder, *small, "run=all")
    assert "2 of 2 runs" in ended.text
    assert (run / "turntable_16.webp").is_file() and (newest / "turntable_16.webp").is_file()
    assert "no run at nowhere; type run=all" in launch(folder, *small, "run=nowhere").text


def test_stills_depth_normals_and_an_animation_are_written(copied, launch):
    folder, run = copied
    pictures = "mode.pictures=[webp,still,depth,normal]"
    ended = launch(
        folder, "mode=render", pictures, "mode.size=24", "mode.frames=2", "mode.stills=2", "mode.light=lambertian"
    )
    assert ended.status == 0, ended.text
    stills = {f"{kind}_{n:03d}.png" for kind in ("still", "depth", "normal") for n in range(2)}
    assert files(run / "stills_24") == stills
    assert (run / "turntable_24.webp").is_file()
    assert not (run / "turntable_24.mp4").exists()


def test_the_gallery_shows_all_runs(copied, launch):
    folder, run = copied
    shutil.copytree(run, folder / "outputs" / "studies" / "x" / "a-cat" / "again")
    ended = launch(folder, "mode=gallery")
    assert ended.status == 0, ended.text
    assert "outputs/gallery.html: 2 runs" in ended.text
    page = (folder / "outputs" / "gallery.html").read_text(encoding="utf-8")
    assert page.count('<article class="card">') == 2
    assert PROMPT in html.unescape(page)
    assert "<b>x</b>" not in page
    assert f'href="./{run.relative_to(folder / "outputs")}/index.html"' in page
    assert launch(folder, "mode=gallery", "study=x").text.startswith("outputs/gallery.html: 1 run,")


def test_the_contact_sheet_shows_the_newest_run_of_a_prompt(copied, launch):
    folder, _ = copied
    (folder / "outputs" / "train" / "a-cats-hat-b-x-b").rename(folder / "outputs" / "train" / "a-cat")
    ended = launch(folder, "mode=sheet", "mode.output=sheet.jpg")
    assert "mode.output is sheet.jpg; the sheet is a PNG: type mode.output=sheet.png" in ended.text
    ended = launch(folder, "mode=sheet", "mode.prompts=[a cat]", "mode.directions=2", "mode.size=24")
    assert ended.status == 0, ended.text
    assert (folder / "outputs" / "contact_sheet.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mode=export", "export.format=fbx"], "export.format is fbx; the formats are glb, obj, ply, stl, usdz"),
        (["mode=export", "export.threshold=1e9"], "the field is empty at threshold 1e+09"),
        (["mode=export", "export.threshold=-1"], "export.threshold is -1; it is auto, or a density above 0"),
        (["mode=export", "export.resolution=0"], "export.resolution is 0; it is 8 to 1024 cells a side"),
        (["mode=export", "export.resolution=fine"], "export.resolution is fine; it must be a whole number: type "),
        (["mode=export", "export.smoothing=-1"], "export.smoothing is -1; it is a number of rounds, 0 for none"),
        (
            ["mode=export", "export.denoise=1e-200"],
            "export.denoise is 1e-200; it is 0 (none), or 0.001 to 0.5 scene units",
        ),
        (["mode=export", "export=stl", "export.min_piece=x"], "export.min_piece is x; it must be a number"),
        (["mode=export", "export.min_piece=2"], "export.min_piece is 2; it is a share"),
        (["mode=export", "export.blur=-1"], "export.blur is -1; it is 0 (none) to 0.5 scene units"),
        (["mode=export", "export.texture=3"], "export.texture is 3; it is 0 (colours at the vertices), or 16 to 8192"),
        (["mode=export", "export.faces=-1"], "export.faces is -1; it is 0 (all), or at least 100"),
        (["mode=export", "export.size=-1"], "export.size is -1; it is null, or the longest side in metres"),
        (["mode=export", "export.up=x"], "export.up is x; it is y or z"),
        (["mode=export", "export.roughness=2"], "export.roughness is 2; it is 0 (mirror) to 1"),
        (["mode=export", "run=nowhere"], "no run at nowhere; type run=all"),
        (["mode=export", "experiment=smoke"], "mode=export got an unexpected keyword argument 'preview_every'"),
        (["mode=render", "mode.frames=0"], "mode.frames is 0; it must be a whole number of at least 1"),
        (["mode=render", "mode.pictures=[gif]"], "mode.pictures is ['gif']; type some of video, webp, still"),
        (["mode=gallery", "mode.output=x.txt"], "mode.output is x.txt; it must be the path of an HTML file"),
        (["mode=render", "mode.size=0"], "mode.size is 0; it must be a whole number of at least 1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_settings_give_one_line(arguments, message, copied, launch):
    folder, _ = copied
    ended = launch(folder, *arguments)
    assert ended.status == 1
    assert "Traceback" not in ended.text
    assert ended.text.startswith("error: ")
    assert message in ended.text


def test_depths_of_relative_cameras_lie_between_near_and_far(ball, make_scene, tmp_path):
    """mvdream's cameras have distances in units of the field of view."""
    orbit = option("camera/multiview")
    trained = SimpleNamespace(scene=make_scene(ball(density=60.0, size=0.6)).eval(), camera=orbit)
    camera = orbit.view(torch.zeros(1), 0.0, 24, 24)
    seen = render_picture(trained.scene, camera)
    (path,) = render._write_stills(trained, camera, seen, tmp_path, 0, ["depth"])
    with Image.open(path) as image:
        values, near, far = np.asarray(image), float(image.text["near"]), float(image.text["far"])
    distance = float(camera.distance)
    assert (near, far) == pytest.approx((distance - 1, distance + 1), abs=1e-3)
    front = near + values[values > 0].min() / 65535 * (far - near)
    assert front == pytest.approx(distance - 0.6, abs=0.1)
