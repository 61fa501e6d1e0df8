"""The window in a real browser; it is served from this machine and to this machine only."""

import socket
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training import ORBIT
from viewer import Viewer
from viser.infra._async_message_buffer import AsyncMessageBuffer

from dreamfusion.camera.data import CameraStream
from dreamfusion.export.writer import write_mesh
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.types import FieldOutput, Mesh
from dreamfusion.view.frame import Frame
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.render_loop import RenderLoop
from dreamfusion.view.window import Window, view_of

STEP = 40
PATIENCE = 900  # seconds; loading viser's page takes two minutes on a busy machine


class TwoSided(Field):
    """A ball with a red front and a blue back."""

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
    return Mailbox(still=0.0, every=10, coarse=32, sharp=128)


@pytest.fixture
def window(mailbox):
    window = Window("127.0.0.1", 0, mailbox, "a ball")
    yield window
    window.close()


def test_messages_are_sent_on_the_servers_own_thread(monkeypatch, mailbox):
    """viser wakes its sender by an event that no other thread may set."""
    pushing, push = set(), AsyncMessageBuffer.push
    watched = threading.Event()

    def note(buffer, message):
        if watched.is_set():
            pushing.add(threading.get_ident())
        push(buffer, message)

    monkeypatch.setattr(AsyncMessageBuffer, "push", note)
    make_widgets = Window._add_widgets
    monkeypatch.setattr(Window, "_add_widgets", lambda window: (watched.set(), make_widgets(window)))
    window = Window("127.0.0.1", 0, mailbox, "a ball")
    viewer, own = Viewer(window.url), set()
    try:
        viewer.look(0)
        while not mailbox.has_clients:
            time.sleep(0.01)
        (client,) = window._server.get_clients()
        window.set_initial_camera(ORBIT.view(torch.tensor([0.0]), 15.0, 8, 8))
        window.show(client, Frame(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32)))
        window.set_status("step 1")
        window.notify("mesh", "mesh.glb")
        window.show_exporting(True)
        window.add_training(lambda: True, lambda: None, 7.5, lambda scale: None)
        window.show_cameras([ORBIT.view(torch.tensor([0.0]), 15.0, 8, 8)])
        window.show_mesh(b"glTF", 1.0, visible=True)
        window._toggle_mesh()
        window._toggle_cameras()
        window._set_light()
        window.end_training()
        window._server.get_event_loop().call_soon_threadsafe(lambda: own.add(threading.get_ident()))
        viewer.wait_for("mesh.glb", seconds=PATIENCE)
    finally:
        viewer.close()
        watched.clear()
        window.close()
    assert pushing == own


@pytest.fixture
def served(window, mailbox):
    """Serve the ball on a thread."""
    scene = NeRF(TwoSided(), ConstantBackground([1.0, 1.0, 1.0]), StratifiedRenderer(1.0, 64))
    render_loop = RenderLoop(window, mailbox, scene, CameraStream(ORBIT, 2, 16, 100, 0), lambda: STEP)
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
    """Shares of clearly red, green and blue pixels of the page; excludes the widgets' pale blue."""
    red, green, blue = browser.picture().astype(int).transpose(2, 0, 1)
    clear = red - np.maximum(green, blue) > 100, green - np.maximum(red, blue) > 30, blue - np.maximum(red, green) > 150
    return [float(pixels.mean()) for pixels in clear]


def see(browser, condition):
    """Wait until the shares of red, green and blue meet the condition."""
    end = time.monotonic() + PATIENCE
    while not condition(*(seen := shares(browser))):
        assert time.monotonic() < end, f"red, green and blue are {seen}; {browser.problems}"
        browser.evaluate("new Promise(done => setTimeout(done, 500))")


def test_a_browser_shows_the_scene_turned_by_a_drag_and_its_layers(window, mailbox, served, browser, tmp_path):
    browser.open(window.url)
    browser.wait_for("document.querySelector('canvas') !== null", PATIENCE)
    # The first view is 30 degrees from the red front; a drag over the full height of 900 pixels is one full turn.
    see(browser, lambda red, green, blue: red > 0.05 and red > 5 * blue and green < 0.001)
    browser.drag((250, 600), (650, 600))
    see(browser, lambda red, green, blue: blue > 0.05 and blue > 5 * red)

    # A green mesh replaces the scene.
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) * 0.6
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    green = np.tile(np.array([[0.0, 1.0, 0.0]], np.float32), (4, 1))
    (path,) = write_mesh(Mesh(corners, faces, colors=green), tmp_path / "mesh.glb")
    mailbox.post(lambda: window.show_mesh(path.read_bytes(), 1.0, visible=True))
    see(browser, lambda red, green, blue: red + blue < 0.002 and green > 0.01)
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


def test_the_page_loads_nothing_from_another_host(window):
    with urllib.request.urlopen(window.url) as answer:
        page = answer.read().decode()
    assert len(page) > 100_000
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_window_is_served_on_loopback_only(window):
    port = int(window.url.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; selects this machine's external address
        except OSError:
            pytest.skip("this machine has only a loopback address")
        address = probe.getsockname()[0]
    with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
        pass


def test_viser_opens_no_tunnel(window):
    assert window._server.request_share_url() is None
    assert window._server._share_tunnel is None


@pytest.mark.parametrize(("height", "width"), [(0, 0), (0, 800), (600, 0)])
def test_a_minimised_window_has_a_picture_of_a_pixel(height, width):
    cameras = view_of(camera_of(image_height=height, image_width=width)).cameras(80)
    assert min(cameras.height, cameras.width) == 1


def camera_of(**changes):
    still = {"wxyz": np.array([1.0, 0, 0, 0]), "position": np.array([0.0, 0, -3]), "fov": 0.7}
    return SimpleNamespace(**still | {"image_height": 60, "image_width": 80} | changes)


@pytest.mark.parametrize(
    "changes",
    [{"fov": np.nan}, {"fov": 0.0}, {"fov": 4.0}, {"position": np.array([0, np.inf, 0])},
     {"position": np.array([1e30, 0, 0])}, {"wxyz": np.full(4, np.nan)}],
)  # fmt: skip
def test_a_camera_that_cannot_be_drawn_is_not_the_trainings(changes):
    """A client may send any numbers; the training thread renders what it is given."""
    assert view_of(camera_of()).is_drawable
    assert not view_of(camera_of(**changes)).is_drawable
