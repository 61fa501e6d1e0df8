"""The page of a run shows Gaussians as the product's own renderer does."""

import base64
import io

import numpy as np
import torch
import trimesh
from options import option
from PIL import Image

from dreamfusion.export.splats import splat_bytes
from dreamfusion.export.writer import write_mesh
from dreamfusion.ops.splat import splat
from dreamfusion.ops.splat.projection import project_gaussians
from dreamfusion.report.page import RunPage, write_page
from dreamfusion.types import Gaussians, Mesh

VIEW = 'document.querySelector("canvas[data-splats]").view'


def cloud(count=60):
    """Needles, discs and balls of all colours, one behind the other, as thin as a pixel and as wide as a hundred."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(count, 8, generator=generator)
    normal = torch.randn(count, 7, generator=generator)
    places, turned = 0.35 * normal[:, :3], torch.nn.functional.normalize(normal[:, 3:], dim=-1)
    return Gaussians(places, 0.004 * 40 ** drawn[:, :3], turned, 0.2 + 0.75 * drawn[:, 3], drawn[:, 4:7])


def rendered(own, camera):
    screen = project_gaussians(camera, own.means, own.scales, own.rotations)
    values, opacity = splat(screen, own.opacities, own.colors[None], camera.height, camera.width)
    return torch.cat([values, opacity[..., None]], dim=-1)[0].numpy()


def test_a_browser_draws_gaussians_as_the_renderer_does_turns_them_by_a_drag_and_shows_the_mesh(browser, tmp_path):
    own, ball = cloud(), trimesh.creation.icosphere(subdivisions=1)
    write_mesh(Mesh(np.float32(ball.vertices), np.asarray(ball.faces)), tmp_path / "mesh.glb", {})
    write_page(RunPage("a cat", mesh=tmp_path / "mesh.glb", splats=splat_bytes(own)), tmp_path / "index.html")
    browser.problems.clear()
    browser.open(tmp_path / "index.html")
    browser.wait_for('document.querySelector("canvas[data-splats]")?.view !== undefined')
    picture = browser.evaluate(
        f"(view => {{ view.turning = false; view.azimuth = 40; view.elevation = 25; view.draw();"
        f" return view.canvas.toDataURL(); }})({VIEW})"
    )
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))), np.float32) / 255
    height, width = drawn.shape[:2]
    side = min(height, width)
    row, column = (height - side) // 2, (width - side) // 2
    drawn = drawn[row : row + side, column : column + side]
    ours = rendered(own, option("camera/orbit").view(torch.tensor([40.0]), 25.0, side, side))
    colors = drawn[..., :3] * drawn[..., 3:]  # PNG is not premultiplied
    assert np.abs(drawn[..., 3] - ours[..., 3]).mean() < 0.003 and np.abs(colors - ours[..., :3]).mean() < 0.003
    assert ours[..., 3].mean() > 0.05
    box = browser.evaluate(
        "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        '(document.querySelector("canvas[data-splats]").getBoundingClientRect())'
    )
    browser.drag(box, (box[0] + 60, box[1] + 10))
    assert (browser.evaluate(f"{VIEW}.azimuth"), browser.evaluate(f"{VIEW}.elevation")) == (10, 30)
    shown = '[...document.querySelectorAll(".model")].map((panel) => panel.offsetParent !== null)'
    assert browser.evaluate(shown) == [True, False]
    browser.click('document.querySelector("#other")')
    assert browser.evaluate(shown) == [False, True]
    browser.click('document.querySelector("#back")')
    assert browser.evaluate(shown) == [True, False] and browser.problems == []
