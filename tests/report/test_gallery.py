"""The gallery page, and both pages in a real browser."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from browser import Browser
from test_page import HOSTILE, Page

from dreamfusion.export.writer import write_mesh
from dreamfusion.report import gallery
from dreamfusion.report.gallery import Entry, differing, write_gallery
from dreamfusion.report.page import RunPage, write_page
from dreamfusion.report.video import write_video
from dreamfusion.types import Mesh


@pytest.fixture
def entries(tmp_path):
    """Two runs: a box with one colour per side, and a run without a model and with a hostile prompt."""
    box = trimesh.creation.box()
    box.unmerge_vertices()
    colors = (np.abs(box.face_normals) * 0.6 + (box.face_normals > 0.5) * 0.4).repeat(3, axis=0)
    normals = box.face_normals.repeat(3, axis=0).astype(np.float32)
    mesh = Mesh(np.float32(box.vertices), np.asarray(box.faces), normals, np.float32(colors))
    write_mesh(mesh, tmp_path / "mesh.glb")
    write_video([np.full((32, 32, 3), (200, 30, 30), np.uint8)] * 2, tmp_path / "turntable.mp4")
    return [
        Entry("a box", tmp_path / "mesh.glb", tmp_path / "turntable.mp4", {"seed": "0", "steps": "9"}, {"iou": "0.98"}),
        Entry(HOSTILE, settings={"seed": HOSTILE, "steps": "9"}, figures={HOSTILE: HOSTILE}),
    ]


def test_only_settings_that_differ_are_shown():
    assert differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]) == ["b", "c"]
    assert differing([{"a": "1"}]) == []


def test_a_card_for_each_run_and_a_hostile_prompt_stays_text(entries, tmp_path):
    write_gallery(entries, HOSTILE, tmp_path / "g" / "gallery.html")
    page = Page(tmp_path / "g" / "gallery.html")
    assert len(page.attributes("article")) == 2
    assert page.text["h1"] == HOSTILE
    assert page.text["h2"] == "a box" + HOSTILE
    assert "steps" not in page.text["dt"]
    assert "iou" in page.text["dt"]
    assert page.attributes("button")[1]["data-label"] == HOSTILE
    assert len(page.attributes("img")) == 1
    assert [attrs.get("id") for attrs in page.attributes("script")] == ["model-0", None, None]
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert all(source.startswith("data:") for source in sources)
    assert page.attributes("meta")[3]["content"].startswith("default-src 'none'")


def test_a_run_shows_its_first_figures_and_the_others_on_a_click(entries, tmp_path):
    figures = {f"score {n}": str(n) for n in range(7)}
    write_gallery([replace(entries[0], figures=figures)], "t", tmp_path / "gallery.html")
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    first, others = page.split("<details>")
    assert [name for name in figures if name in first] == [f"score {n}" for n in range(4)]
    assert [name for name in figures if name in others] == ["score 4", "score 5", "score 6"]
    assert "3 more" in others


def test_models_beyond_the_size_limit_are_links_to_the_pages_of_their_runs(entries, tmp_path, monkeypatch):
    size = entries[0].mesh.stat().st_size
    monkeypatch.setattr(gallery, "EMBEDDED", 2 * size)
    runs = [replace(entries[0], page=tmp_path / f"run {n}" / "index.html") for n in range(3)]
    write_gallery(runs, "t", tmp_path / "g" / "gallery.html")
    page = Page(tmp_path / "g" / "gallery.html")
    models = [attrs["data-model"] for attrs in page.attributes("button") if "data-model" in attrs]
    assert models == ["model-0", "model-1"]
    links = [attrs["href"] for attrs in page.attributes("a") if attrs.get("class") == "top"]
    assert links == ["./../run%202/index.html"]
    assert len(page.attributes("a")) == 4  # the others are the prompts


def test_a_gallery_without_runs_is_an_error_and_writes_no_file(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_gallery([], "t", tmp_path / "gallery.html")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory):
    """One browser for both pages, which reuses the shaders compiled for the first model."""
    profile = tmp_path_factory.mktemp("browser")
    made = Browser(profile)
    yield made
    made.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def browser(one_browser):
    one_browser.problems.clear()
    return one_browser


def colorful(picture):
    """Share of saturated pixels."""
    return float((np.ptp(picture.astype(int), axis=2) > 60).mean())


def turn(browser, tmp_path, x, y):
    """Images of the model before and after a drag across it."""
    browser.wait_for("document.querySelector('model-viewer')?.modelIsVisible === true")
    browser.evaluate("document.querySelector('model-viewer').autoRotate = false")
    before, orbit = browser.still(), "document.querySelector('model-viewer').getCameraOrbit().theta"
    angle = browser.evaluate(orbit)
    browser.drag((x, y), (x + 150, y))
    browser.wait_for(f"Math.abs({orbit} - {angle}) > 0.3")  # radians; the frame rate limits the speed
    return before, browser.still()


def test_a_click_in_the_gallery_shows_a_model_that_a_drag_turns(entries, tmp_path, browser):
    write_gallery(entries, "Gallery", tmp_path / "gallery.html")
    browser.open(tmp_path / "gallery.html")
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('.card').length === 2")
    assert browser.evaluate("document.querySelector('model-viewer') === null")
    browser.evaluate("document.querySelector('button[data-model]').click()")
    before, after = turn(browser, tmp_path, 250, 250)
    assert colorful(before) > 0.03
    assert np.abs(before.astype(int) - after).mean() > 2
    browser.evaluate("document.querySelector('dialog').close()")
    browser.wait_for("document.querySelector('model-viewer') === null")
    assert browser.evaluate("window.alerted === undefined && document.querySelectorAll('h2')[1].children.length") == 0
    assert browser.problems == []


def test_the_page_of_a_run_shows_a_model_that_a_drag_turns(entries, tmp_path, browser):
    write_page(RunPage(HOSTILE, entries[0].mesh, entries[0].video), tmp_path / "index.html")
    browser.open(tmp_path / "index.html")
    browser.wait_for("document.readyState === 'complete'")
    browser.wait_for("document.querySelector('model-viewer') !== null")
    box = browser.evaluate(
        "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('.model').getBoundingClientRect())"
    )
    before, after = turn(browser, tmp_path, *box)
    assert colorful(before) > 0.02
    assert np.abs(before.astype(int) - after).mean() > 1
    assert browser.problems == []
