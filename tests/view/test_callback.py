"""Training with a window open gives the same result as training without one."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from training import ORBIT, STEPS, assert_same, state, train

from dreamfusion.camera.data import CameraStream
from dreamfusion.scene.shading import LAMBERTIAN
from dreamfusion.training.callbacks import Checkpoints, StopOnInterrupt, Stopwatch
from dreamfusion.view.callback import ViewCallback
from dreamfusion.view.frame import View
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.window import Window

HERE = View((0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0), 0.7, 30, 40)


class Recorder(Window):
    """A window that records its pictures and messages."""

    def __init__(self, mailbox):
        super().__init__("127.0.0.1", 0, mailbox, "a cat")
        self.shown, self.statuses, self.frustums = [], [], []

    def show(self, client, frame):
        self.shown.append(frame.rgb)
        super().show(client, frame)

    def show_cameras(self, cameras):
        self.frustums.append(cameras)
        super().show_cameras(cameras)

    def set_status(self, text):
        self.statuses.append(text)
        super().set_status(text)


class Visitor(L.Callback):
    """Calls `visit` before each step."""

    def __init__(self, visit):
        self.visit = visit

    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        self.visit(trainer.global_step, trainer, system)


@pytest.fixture
def mailbox():
    return Mailbox(still=0.0, every=2, coarse=8, sharp=16)


@pytest.fixture
def window(mailbox):
    window = Recorder(mailbox)
    yield window
    window.close()


@pytest.fixture
def train_with_window(mailbox, window, make_system, tmp_path):
    """Train with the window and call `visit(step, trainer, system)` before each step; returns the checkpoint."""

    def run(visit, export=None, finish=lambda: None, **changes):
        system = make_system(**changes)
        cameras = CameraStream(ORBIT, STEPS, system.seed)
        checkpoints, stop = Checkpoints(tmp_path / "window.ckpt", 0), StopOnInterrupt()
        callback = ViewCallback(window, mailbox, cameras, SimpleNamespace(begin=export, finish=finish))
        checkpoints.save(train(system, tmp_path, Stopwatch(), stop, Visitor(visit), checkpoints, callback))
        return tmp_path / "window.ckpt"

    return run


def train_without_window(make_system, folder, **changes):
    path = folder / "plain.ckpt"
    Checkpoints(path, 0).save(train(make_system(**changes), folder))
    return path


def test_training_with_a_window_is_bit_for_bit_the_same(train_with_window, make_system, window, mailbox, tmp_path):
    def visit(step, trainer, system):
        mailbox.set_view(1, replace(HERE, position=(0.1 * step, 0.0, 3.0)))
        mailbox.set_view(2, HERE)
        window.shining = LAMBERTIAN if step % 2 else window.shining
        if step == 1:
            mailbox.post(lambda: window.on_cameras(True))
        if step == 3:
            press(window, "save")

    window_state = state(train_with_window(visit))
    assert len(window.shown) > 2 * STEPS
    assert len(np.unique([image.mean() for image in window.shown])) > STEPS  # of a scene that moves and changes
    assert len(window.frustums[0]) == 2  # of both steps so far
    assert_same(window_state, state(train_without_window(make_system, tmp_path)))


def test_without_clients_nothing_is_rendered(train_with_window, window, monkeypatch):
    def no(*_):
        raise AssertionError("rendered without a client")

    monkeypatch.setattr("dreamfusion.view.render_loop.render_frame", no)
    train_with_window(lambda *_: None)
    assert window.shown == []
    assert not any(status.startswith("step") for status in window.statuses)


def test_a_paused_training_keeps_serving_until_it_is_resumed(train_with_window, window, mailbox, monkeypatch):
    said, served, steps = [], [], []

    def set_status(text):
        if text.startswith("paused"):
            said.append(text)
            mailbox.set_view(1, replace(HERE, position=(0.5, 0.0, 3.0)))

    def show(client, frame):
        if said and not served:
            served.append(steps[-1])
            press(window, "continue")

    monkeypatch.setattr(window, "set_status", set_status)
    monkeypatch.setattr(window, "show", show)

    def visit(step, trainer, system):
        steps.append(step)
        if step == 2:
            press(window, "pause")

    train_with_window(visit)
    assert said == [f"paused at step 3 of {STEPS}"]
    assert served == [2]  # during the pause, before any further step
    assert steps == list(range(STEPS))


def test_ctrl_c_ends_a_pause_and_the_training(train_with_window, window, monkeypatch, mailbox, make_system, tmp_path):
    stops = []

    def set_status(text):
        if text.startswith("paused"):
            stops[0].request.number = signal.SIGINT

    monkeypatch.setattr(window, "set_status", set_status)

    def visit(step, trainer, system):
        stops[:] = [callback for callback in trainer.callbacks if isinstance(callback, StopOnInterrupt)]
        if step == 2:
            press(window, "pause")

    assert state(train_with_window(visit))["global_step"] < STEPS


def test_the_slider_changes_the_scale_of_later_steps_and_of_the_checkpoint(train_with_window, window, mailbox):
    scales = []

    def visit(step, trainer, system):
        scales.append(system.distillation.guidance_scale(system.progress))
        if step == 2:
            press(window, "guidance scale", 7.5)

    path = train_with_window(visit, config={"prompt": "a cat", "distillation": {"guidance_scale": None}})
    assert scales == [2.0] * 3 + [7.5] * 3  # the prior's default first; the change follows step 2
    assert state(path)["config"]["distillation"]["guidance_scale"] == 7.5


def test_export_saves_a_checkpoint_and_uses_its_scene(train_with_window, window, monkeypatch):
    saved = []
    monkeypatch.setattr("dreamfusion.view.callback.load_scene", lambda path, *_: state(path)["global_step"])

    def visit(step, trainer, system):
        if step == 2:
            press(window, "export")

    train_with_window(visit, export=saved.append)
    assert saved == [3]


def test_the_training_widgets_disappear_after_training(train_with_window, window):
    train_with_window(lambda *_: None)
    assert button(window, "export")
    assert not any(button(window, label) for label in ("pause", "save", "guidance scale"))


def button(window, label):
    """The server's handle of the widget with a label."""
    handles = window._gui._gui_input_handle_from_uuid.values()
    return next((handle for handle in handles if handle.label == label), None)


def press(window, label, value=None):
    """Simulate a click or drag, in this thread."""
    handle = button(window, label)
    if value is not None:
        handle._impl.value = value
    for callback in handle._impl.update_cb:
        callback(None)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ZeroDivisionError("by chance")])
def test_an_export_that_fails_does_not_end_the_training(error, train_with_window, window, monkeypatch):
    notified = []

    def fail(*_):
        raise error

    def visit(step, trainer, system):
        if step == 2:
            press(window, "export")

    monkeypatch.setattr("dreamfusion.view.callback.load_scene", fail)
    monkeypatch.setattr(window, "notify", lambda *words: notified.append(words))
    train_with_window(visit, export=lambda scene: None)
    title, reason = notified[-1]
    assert title == "no mesh" and ("not enough memory" in reason or reason == "ZeroDivisionError: by chance")
