"""The window as a browser shows it, and that it is served from this machine alone."""

import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from training import ORBIT
from viewer import Viewer

from dreamfusion.camera.data import CameraStream
from dreamfusion.export.writer import write_mesh
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.types import FieldOutput, Mesh
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.render_loop import RenderLoop, Sizes
from dreamfusion.view.window import Window

STEP = 40
PATIENCE = 300  # seconds: a machine that many share takes two minutes for viser's page


class TwoSided(Field):
    """A ball that is red in front and blue behind."""

    radius = 1.0

    def forward(self, positions, with_normal=False):
        front = positions[:, 2:] > 0
        albedo = torch.where(front, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
        normal = torch.nn.functional.normalize(positions, dim=-1) if with_normal else None
        return FieldOutput(self.density(positions), albedo, normal)

    def density(self, positions):
        return 200.0 * (positions.norm(dim=-1) < 0.6)


@pytest.fixture
def mailbox():
    return Mailbox(still=0.0, every=10)


@pytest.fixture
def window(mailbox):
    window = Window("127.0.0.1", 0, mailbox, "a ball")
    yield window
    window.close()


@pytest.fixture
def served(window, mailbox):
    """The ball, served by a thread of its own."""
    scene = NeRF(TwoSided(), ConstantBackground([1.0, 1.0, 1.0]), StratifiedRenderer(1.0, 64))
    render_loop = RenderLoop(window, mailbox, Sizes(32, 128), scene, CameraStream(ORBIT, 2, 16, 100, 0), lambda: STEP)
    ended, failed = threading.Event(), []

    def serve():
        try:
            while not ended.is_set():
                render_loop.serve()
                render_loop.wait(0.5)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    yield render_loop
    ended.set()
    thread.join()
    assert failed == []


def shares(browser):
    """Of the page's pixels, how many are clearly red, green or blue; the widgets' pale blue is not."""
    red, green, blue = browser.picture().astype(int).transpose(2, 0, 1)
    clear = red - np.maximum(green, blue) > 100, green - np.maximum(red, blue) > 30, blue - np.maximum(red, green) > 150
    return [float(pixels.mean()) for pixels in clear]


def see(browser, condition):
    """Wait until the shares of red, green and blue are as wanted."""
    end = time.monotonic() + PATIENCE
    while not condition(*(seen := shares(browser))):
        assert time.monotonic() < end, f"red, green and blue are {seen}; {browser.problems}"
        browser.evaluate("new Promise(done => setTimeout(done, 500))")


def test_a_browser_shows_the_scene_that_a_drag_turns_and_the_layers_on_it(window, mailbox, served, browser, tmp_path):
    browser.open(window.url)
    browser.wait_for("document.querySelector('canvas') !== null", PATIENCE)
    # It begins 30 degrees beside the front, at the red side; the whole height of 900 pixels is a whole turn.
    see(browser, lambda red, green, blue: red > 0.05 and red > 5 * blue and green < 0.001)
    browser.drag((250, 600), (650, 600))
    see(browser, lambda red, green, blue: blue > 0.05 and blue > 5 * red)

    # A green mesh in its place.
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) * 0.6
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    green = np.tile(np.array([[0.0, 1.0, 0.0]], np.float32), (4, 1))
    (path,) = write_mesh(Mesh(corners, faces, colors=green), tmp_path / "mesh.glb")
    mailbox.post(lambda: window.show_mesh(path.read_bytes(), 1.0, visible=True))
    see(browser, lambda red, green, blue: red + blue < 0.001 and green > 0.01)
    assert browser.problems == []
    assert {url.split(":")[0] for url in browser.requests} <= {"http", "ws", "data", "blob"}
    assert all(
        url.split("/")[2] == window.url.split("/")[2] for url in browser.requests if url.startswith(("http", "ws"))
    )


def test_a_client_is_shown_the_scene_and_its_cameras_on_request(window, served, mailbox):
    viewer = Viewer(window.url)
    viewer.look(30)
    viewer.wait_for("BackgroundImageMessage", "a ball")
    mailbox.post(lambda: window.on_cameras(True))
    viewer.wait_for("CameraFrustumMessage", "/cameras/23")  # two views of the last twelve steps
    viewer.close()


def test_the_page_comes_whole_from_this_machine(window):
    with urllib.request.urlopen(window.url) as answer:
        page = answer.read().decode()
    assert len(page) > 100_000
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_window_is_served_on_loopback_alone(window):
    port = int(window.url.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses this machine's outer address
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
        pass


def test_there_is_no_tunnel_to_elsewhere(window):
    assert window._server.request_share_url() is None
    assert window._server._share_tunnel is None
