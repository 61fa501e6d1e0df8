import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dreamfusion.export.writer import write_mesh
from dreamfusion.image import write_image
from dreamfusion.report.curves import Curve, draw_curve, read_curves
from dreamfusion.report.page import RunPage, write_page
from dreamfusion.report.video import write_video
from dreamfusion.types import Mesh

VOID = {"meta", "link", "img", "br", "input", "hr"}
HOSTILE = """a </title><script>alert("1")</script> 'cat' & {{viewer}} <img src=x onerror=alert(2)> ☃"""


class Page(HTMLParser):
    """The tags and the text of a page; fails on unbalanced tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> RunPage:
    """A page with the files of a small run."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    mesh = Mesh(corners, np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]), colors=corners.clip(0, 1))
    grey = np.full((16, 16, 3), 99, dtype=np.uint8)
    write_mesh(mesh, tmp_path / "mesh.glb")
    write_video([grey] * 2, tmp_path / "turntable.mp4")
    write_image(grey, tmp_path / "a b#1.png")
    rows = "epoch,step,opacity,gradient_norm,note\n0,0,0.5,10,x\n0,10,,nan,y\n0,20,0.25,30,z\n"
    (tmp_path / "metrics.csv").write_text(rows)
    return RunPage(
        prompt="a snowman",
        mesh=tmp_path / "mesh.glb",
        video=tmp_path / "turntable.mp4",
        previews={"step 200": tmp_path / "a b#1.png"},
        metrics=tmp_path / "metrics.csv",
        figures={"triangles": "4"},
        settings={"guidance": "pocket"},
        files=[tmp_path / "mesh.glb", tmp_path / "a b#1.png"],
    )


def test_page_of_a_complete_run_holds_every_part(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    assert page.text["title"] == page.text["h1"] == "a snowman"
    assert page.text["h2"] == "During trainingCurvesSettingsFiles"
    assert page.text["dt"] == "trianglesguidance"
    assert page.text["dd"] == "4pocket"
    assert len(page.attributes("svg")) == 2  # opacity and gradient norm


def test_model_video_and_images_are_embedded_unchanged(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    sources = [page.attributes(tag)[0]["src"] for tag in ("model-viewer", "video", "img")]
    for source, file in zip(sources, ("mesh.glb", "turntable.mp4", "a b#1.png"), strict=True):
        kind, data = source.split(",")
        assert kind.endswith(";base64")
        assert base64.b64decode(data) == (tmp_path / file).read_bytes()


def test_page_makes_no_network_request(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    for tag, attrs in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action"):
            if name in attrs:
                assert attrs[name].startswith("./" if tag == "a" else "data:"), (tag, name)
    assert not page.attributes("link")
    style = page.text["style"]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for attrs in page.attributes("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*", policy)


def test_links_are_relative_to_the_page(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "report" / "index.html")
    page = Page(tmp_path / "report" / "index.html")
    assert [attrs["href"] for attrs in page.attributes("a")] == ["./../mesh.glb", "./../a%20b%231.png"]


def test_script_in_a_prompt_stays_text(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "plain.html")
    hostile = RunPage(HOSTILE, run.mesh, run.video, settings={HOSTILE: HOSTILE}, figures={HOSTILE: HOSTILE})
    write_page(hostile, tmp_path / "hostile.html")
    page, plain = Page(tmp_path / "hostile.html"), Page(tmp_path / "plain.html")
    assert page.text["title"] == page.text["h1"] == HOSTILE
    assert page.text["dd"] == HOSTILE * 2
    assert page.attributes("model-viewer")[0]["alt"] == HOSTILE
    assert len(page.attributes("script")) == len(plain.attributes("script")) == 2  # the viewer and the page's
    assert not page.attributes("img")


def test_missing_parts_are_left_out_with_their_headings(tmp_path: Path) -> None:
    write_page(RunPage("a cat"), tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    assert page.text["h1"] == "a cat"
    assert "h2" not in page.text
    for tag in ("model-viewer", "video", "img", "svg", "dl", "ul", "section"):
        assert not page.attributes(tag)
    assert (tmp_path / "index.html").stat().st_size < 20_000  # without a model the viewer is left out


def test_page_without_a_video_still_shows_the_model(run: RunPage, tmp_path: Path) -> None:
    write_page(RunPage("a cat", mesh=run.mesh), tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    assert len(page.attributes("model-viewer")) == 1
    assert not page.attributes("video")


def test_viewer_cannot_end_its_own_script_element(run: RunPage, tmp_path: Path) -> None:
    write_page(run, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 2  # HTML 13.1.3: a script may contain neither


def test_file_that_cannot_be_embedded_is_named(run: RunPage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot embed 'metrics\.csv': a page shows glb, mp4, png, jpg"):
        write_page(RunPage("a cat", mesh=run.metrics), tmp_path / "index.html")
    with pytest.raises(FileNotFoundError):
        write_page(RunPage("a cat", video=tmp_path / "no.mp4"), tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_curves_skip_empty_cells_text_and_nan(run: RunPage) -> None:
    assert run.metrics is not None
    curves = {curve.name: curve for curve in read_curves(run.metrics)}
    assert set(curves) == {"opacity", "gradient_norm"}
    np.testing.assert_array_equal(curves["opacity"].steps, [0, 20])
    np.testing.assert_array_equal(curves["gradient_norm"].values, [10, 30])


def test_empty_metrics_give_no_curve(tmp_path: Path) -> None:
    for text in ("", "step,opacity\n", "step,opacity\n0,0.5\n"):
        (tmp_path / "metrics.csv").write_text(text)
        assert read_curves(tmp_path / "metrics.csv") == []


def mean_line(svg: str) -> np.ndarray:
    """Corners (N, 2) of the drawn mean: x to the right, y downwards, in SVG units."""
    found = re.search(r'<g id="mean">\s*<path d="([^"]*)"', svg)
    assert found is not None
    return np.array(re.findall(r"[ML] (\S+) (\S+)", found[1]), dtype=float)


def test_line_rises_from_left_to_right_in_proportion_to_the_values() -> None:
    chart = draw_curve(Curve("rise", np.array([0.0, 50.0, 100.0]), np.array([1.0, 2.0, 4.0])))
    x, y = mean_line(chart.svg).T
    np.testing.assert_allclose((x - x[0]) / (x[-1] - x[0]), [0.0, 0.5, 1.0], atol=1e-4)
    np.testing.assert_allclose((y[0] - y) / (y[0] - y[-1]), [0.0, 1 / 3, 1.0], atol=1e-4)
    assert y[-1] < y[0]
    assert not chart.logarithmic
    assert chart.last == "4"


def test_values_over_many_magnitudes_are_drawn_on_a_logarithmic_axis() -> None:
    chart = draw_curve(Curve("norm", np.array([0.0, 50.0, 100.0]), np.array([1.0, 10.0, 1000.0])))
    y = mean_line(chart.svg)[:, 1]
    np.testing.assert_allclose((y[0] - y) / (y[0] - y[-1]), [0.0, 1 / 3, 1.0], atol=1e-4)
    assert chart.logarithmic


def test_long_curve_is_thinned_to_means_of_bins() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    chart = draw_curve(Curve("noise", np.arange(10_000.0), values))
    points = json.loads(chart.points)
    assert len(points) == 160
    assert all(0.0 <= x <= 1.0 for x, _, _ in points)
    assert float(points[0][2]) == pytest.approx(values[:62].mean(), abs=0.01)


def test_metric_name_with_markup_is_escaped(run: RunPage, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,<b>x</b>\n0,1\n1,2\n")
    write_page(RunPage("a cat", metrics=tmp_path / "metrics.csv"), tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    assert page.text["figcaption"].startswith("<b>x<")
    assert not page.attributes("b")


def test_constant_curve_is_a_level_line() -> None:
    y = mean_line(draw_curve(Curve("flat", np.array([0.0, 1.0]), np.array([2.0, 2.0]))).svg)[:, 1]
    assert y[0] == y[1]


def test_same_curve_gives_the_same_svg_in_the_colours_of_the_page() -> None:
    curve = Curve("rise", np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    svg = draw_curve(curve).svg
    assert svg == draw_curve(curve).svg
    assert "var(--accent)" in svg
    assert "currentColor" in svg
    assert "<metadata" not in svg
