"""The browser window: viser's server, the displayed layers, and widgets whose callbacks post to the mailbox.

Messages to clients are sent on the server's own thread: viser wakes its sender by an `asyncio.Event`, which is not safe
for other threads, and of which a lost call would leave a client without any message until its page is loaded again.
"""

import asyncio
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import viser
from viser import transforms

from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion.types import Cameras
from dreamfusion.view.address import check_address, is_loopback, url
from dreamfusion.view.frame import STUDIO, Frame, Light, View
from dreamfusion.view.mailbox import Action, Mailbox
from dreamfusion.view.server import LocalServer

log = logging.getLogger(__name__)
LIGHTS: dict[str, Light] = {"studio": STUDIO, "albedo": ALBEDO, "lambertian": LAMBERTIAN, "textureless": TEXTURELESS}
CAMERA_COLOR = (230, 120, 30)
SLIDER_TICKS = 100  # of the guidance scale
QUALITY = 90  # JPEG, of the pictures
Given = ParamSpec("Given")
Made = TypeVar("Made")


def on_server_thread(
    method: Callable[Concatenate["Window", Given], Made],
) -> Callable[Concatenate["Window", Given], Made]:
    """Run a method of the window on the server's thread, and wait for its end."""

    @wraps(method)
    def call(self: "Window", *args: Given.args, **kwargs: Given.kwargs) -> Made:
        async def work() -> Made:
            return method(self, *args, **kwargs)

        loop = self._server.get_event_loop()
        if _runs_here(loop):
            return method(self, *args, **kwargs)
        return asyncio.run_coroutine_threadsafe(work(), loop).result()

    return call


class Window:
    """The scene's page in all clients, and its widgets."""

    def __init__(self, host: str, port: int, mailbox: Mailbox, title: str) -> None:
        """Serve at `host` and `port`, or at the next free port, and log the URL.

        Raises:
            UserError: the address cannot be served at.
        """
        check_address(host, port)
        logging.getLogger("websockets").setLevel(logging.WARNING)  # it logs each connection
        with _without_output():
            self._server = LocalServer(host, port, title)
        found = self._server.get_port()
        self.url = url(host, found) + ("" if self._server.token is None else f"/?token={self._server.token}")
        self._mailbox, self._gui = mailbox, self._server.gui
        self.shining: Light = STUDIO
        self.on_export: Callable[[], None] = lambda: None
        self.on_cameras: Callable[[bool], None] = lambda shown: None
        self._mesh: viser.GlbHandle | None = None
        self._frustums: list[viser.CameraFrustumHandle] = []
        self._training: list[viser.GuiInputHandle | viser.GuiButtonHandle] = []
        self._add_widgets()
        self._add_client_callbacks()
        moved = "" if port in (0, found) else f"port {port} is in use; "
        log.info("open %s (%sCtrl-C closes it)", self.url, moved)  # terminals make a ; after an address a part of it
        if not is_loopback(host):
            log.warning("anyone with this URL can view and control the run, from other machines with this one's name")

    def close(self) -> None:
        """Stop the server."""
        with _without_output():
            self._server.stop()

    @on_server_thread
    def set_initial_camera(self, cameras: Cameras) -> None:
        """Start new clients at the first of `cameras`."""
        start = self._server.initial_camera
        start.position = _triple(cameras.camera_to_world[0, :, 3].numpy())
        start.look_at = (0.0, 0.0, 0.0)
        start.fov = float(np.deg2rad(cameras.fov[0].item()))

    @on_server_thread
    def show(self, client: int, frame: Frame) -> None:
        """Send a picture to a client, with depth if other layers must be composited with it."""
        handle = self._server.get_clients().get(client)
        if handle is not None:
            depth = frame.depth if self.has_layers else None
            with _ignore_disconnected():
                handle.scene.set_background_image(frame.rgb, "jpeg", jpeg_quality=QUALITY, depth=depth)
                handle.flush()

    @property
    def has_layers(self) -> bool:
        """Whether cameras or a mesh are shown beside the scene."""
        return self.cameras.value or self.mesh.value

    @on_server_thread
    def set_status(self, text: str) -> None:
        """Set the line above the widgets."""
        if self.status.content != text:
            self.status.content = text

    @on_server_thread
    def notify(self, title: str, body: str) -> None:
        """Show a notification in every client."""
        for client in self._server.get_clients().values():
            with _ignore_disconnected():
                client.add_notification(title, body, auto_close_seconds=20.0)

    @on_server_thread
    def show_exporting(self, exporting: bool) -> None:
        """Disable the export button while an export is running."""
        self._export.label = "exporting …" if exporting else "export"
        self._export.disabled = exporting

    @on_server_thread
    def show_mesh(self, glb: bytes, scale: float, visible: bool) -> None:
        """Add the mesh as a layer, scaled by `scale` to scene units; with `visible` it replaces the scene."""
        self._mesh = self._server.scene.add_glb("/mesh", glb, scale=scale, visible=visible)
        self.mesh.disabled = False
        self.mesh.value = visible  # type: ignore[misc]  # mypy does not see the setter
        if visible:
            self.scene.value = False  # type: ignore[misc]
            self._hide_scene(True)

    @on_server_thread
    def show_cameras(self, cameras: list[Cameras]) -> None:
        """Replace the displayed camera frustums."""
        every = [(batch, view) for batch in cameras for view in range(len(batch))]
        with self._server.atomic():
            for handle in self._frustums[len(every) :]:
                handle.remove()
            self._frustums = [self._frustum(i, *camera) for i, camera in enumerate(every)]

    @on_server_thread
    def add_training(
        self, toggle_pause: Callable[[], bool], save: Action, scale: float, set_scale: Callable[[float], None]
    ) -> None:
        """Add the training widgets; the scene's thread calls `toggle_pause` (returns whether training is now paused),
        `save`, and `set_scale` for the guidance scale, which is `scale`."""
        pause, saving = self._gui.add_button("pause", order=1), self._gui.add_button("save", order=2)
        limit = max(10.0, 3 * scale)
        slider = self._gui.add_slider("guidance scale", 0.0, limit, limit / SLIDER_TICKS, scale, order=4)
        self._training = [pause, saving, slider]

        pause.on_click(
            lambda _: self._mailbox.post(lambda: self._label(pause, "continue" if toggle_pause() else "pause"))
        )
        saving.on_click(lambda _: self._mailbox.post(save))
        slider.on_update(lambda _: self._mailbox.post(lambda: set_scale(slider.value)))

    @on_server_thread
    def _label(self, button: viser.GuiButtonHandle, text: str) -> None:
        button.label = text

    @on_server_thread
    def end_training(self) -> None:
        """Remove the training widgets."""
        for widget in self._training:
            widget.remove()
        self._training = []

    @on_server_thread
    def _add_widgets(self) -> None:
        self._gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        self._server.scene.set_up_direction("+y")
        self.status = self._gui.add_markdown("loading", order=0)
        self._export = self._gui.add_button("export", order=3)
        self.scene = self._gui.add_checkbox("scene", True, order=5)
        self.mesh = self._gui.add_checkbox("mesh", False, disabled=True, order=6)
        self.cameras = self._gui.add_checkbox("training cameras", False, order=7)
        self.light = self._gui.add_dropdown("light", tuple(LIGHTS), order=8)
        self._export.on_click(lambda _: self._mailbox.post(lambda: self.on_export()))
        self.scene.on_update(lambda _: self._mailbox.post(lambda: self._hide_scene(not self.scene.value)))
        self.mesh.on_update(lambda _: self._mailbox.post(self._toggle_mesh))
        self.cameras.on_update(lambda _: self._mailbox.post(self._toggle_cameras))
        self.light.on_update(lambda _: self._mailbox.post(self._set_light))

    def _add_client_callbacks(self) -> None:
        """Post client cameras in order: async callbacks run on the server's own thread."""

        async def connect(client: viser.ClientHandle) -> None:
            async def update(camera: viser.CameraHandle) -> None:
                if (view := view_of(camera)).is_drawable:
                    self._mailbox.set_view(client.client_id, view)

            client.camera.on_update(update)
            await update(client.camera)

        async def disconnect(client: viser.ClientHandle) -> None:
            self._mailbox.remove_client(client.client_id)

        self._server.on_client_connect(connect)
        self._server.on_client_disconnect(disconnect)

    @on_server_thread
    def _hide_scene(self, hidden: bool) -> None:
        self._mailbox.set_scene_hidden(hidden)
        if hidden:
            for client in self._server.get_clients().values():
                with _ignore_disconnected():
                    client.scene.set_background_image(None)

    @on_server_thread
    def _toggle_mesh(self) -> None:
        if self._mesh is not None:
            self._mesh.visible = self.mesh.value
        self._mailbox.invalidate()  # the pictures gain or lose their depth

    def _toggle_cameras(self) -> None:
        self.on_cameras(self.cameras.value)
        self._mailbox.invalidate()

    def _set_light(self) -> None:
        self.shining = LIGHTS[self.light.value]
        self._mailbox.invalidate()

    def _frustum(self, number: int, cameras: Cameras, view: int) -> viser.CameraFrustumHandle:
        right, up, back, position = cameras.camera_to_world[view].T.double().numpy()
        rotation = transforms.SO3.from_matrix(np.stack([right, -up, -back], axis=1))
        return self._server.scene.add_camera_frustum(
            f"/cameras/{number}",
            float(np.deg2rad(cameras.fov[view].item())),
            cameras.width / cameras.height,
            scale=0.15,
            thickness=0.008,
            color=CAMERA_COLOR,
            wxyz=rotation.wxyz,
            position=position,
        )


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # this thread has no loop
        return False


def view_of(camera: viser.CameraHandle) -> View:
    """Convert a client's camera to a `View`."""
    axes = transforms.SO3(camera.wxyz).as_matrix()  # columns right, down, forward, as in OpenCV
    position, forward, down = (_triple(vector) for vector in (camera.position, axes[:, 2], axes[:, 1]))
    # A minimised window has 0 x 0 pixels.
    height, width = (max(1, int(side)) for side in (camera.image_height, camera.image_width))
    return View(position, forward, down, float(camera.fov), height, width)


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z


@contextmanager
def _ignore_disconnected() -> Iterator[None]:
    """Suppress viser's warning about messages to a client that has just disconnected."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection", UserWarning)
        yield


@contextmanager
def _without_output() -> Iterator[None]:
    """Suppress viser's own console output."""
    with redirect_stdout(io.StringIO()):
        yield
