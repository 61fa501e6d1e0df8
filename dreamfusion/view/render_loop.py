"""Render the clients' pictures and run posted actions, on the thread that owns the scene."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch

from dreamfusion.camera.data import CameraStream
from dreamfusion.scene.base import Scene
from dreamfusion.view.frame import render_frame
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.window import Window

CAMERA_STEPS = 12  # latest steps whose training cameras are displayed


class RenderLoop:
    """Renders a scene and its training cameras into a window."""

    def __init__(
        self,
        window: Window,
        mailbox: Mailbox,
        scene: Scene,
        cameras: CameraStream,
        step: Callable[[], int],
        device: torch.device | str = "cpu",
    ) -> None:
        """`step` returns the scene's training step."""
        self.window, self.mailbox = window, mailbox
        self.scene, self.cameras, self.step, self.device = scene, cameras, step, device
        self._cameras_of = -1  # the step at which the cameras were displayed
        window.set_initial_camera(cameras.orbit.view(torch.tensor([30.0]), 15.0, 1, 1))
        window.on_cameras = self._show_cameras
        mailbox.invalidate()

    def serve(self, seconds: float = math.inf) -> None:
        """Run the posted actions and render the due pictures; begins no further picture after `seconds`."""
        end = time.monotonic() + seconds
        self.mailbox.run_posted()
        while (job := self.mailbox.next_job(self.step())) is not None:
            camera = job.view.cameras(self.mailbox.sharp if job.sharp else self.mailbox.coarse).to(self.device)
            # Coarse pictures are never abandoned: otherwise nothing would appear while a camera moves.
            frame = render_frame(
                self.scene, camera, self.window.shining, partial(self.mailbox.is_stale, job) if job.sharp else None
            )
            if frame is not None:
                self.window.show(job.client, frame)
                self.mailbox.mark_shown(job, self.step())
            self.mailbox.run_posted()
            if time.monotonic() > end:
                return
        if self.window.cameras.value and self.step() - self._cameras_of >= self.mailbox.every:
            self._show_cameras(True)

    def wait(self, seconds: float) -> None:
        """Sleep until there is work, at most `seconds`."""
        self.mailbox.wait(self.step(), seconds)

    def _show_cameras(self, shown: bool) -> None:
        self._cameras_of = step = self.step()
        steps = range(max(0, step - CAMERA_STEPS), step) if shown else range(0)
        self.window.show_cameras([self.cameras.batch(past) for past in steps])
