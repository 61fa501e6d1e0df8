"""`mode=view` from a checkpoint and during training, with real clients; Ctrl-C closes it."""

import os
import shutil
import signal
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from launched import PROMPT, QUICK, files
from omegaconf import OmegaConf
from PIL import Image
from training import assert_same, state
from viewer import Viewer

from dreamfusion.checkpoint import load_scene, read_checkpoint
from dreamfusion.export.writer import glb_metadata, write_mesh
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mode.view import export, show_exported
from dreamfusion.runs.export import export_scene
from dreamfusion.runs.lock import locked
from dreamfusion.types import Mesh
from dreamfusion.view.callback import ViewCallback

PATIENCE = 900  # seconds, for a busy machine


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def while_open(launch, port):
    """Launch, run `visit()` on a thread, then press Ctrl-C; re-raises an error of `visit`."""

    def run(visit, *arguments):
        failed, lock, running = [], threading.Lock(), [True]

        def come():
            try:
                visit()
            except BaseException as error:
                failed.append(error)
            with lock:
                if running[0]:  # otherwise the signal would end the test
                    os.kill(os.getpid(), signal.SIGINT)

        visitor = threading.Thread(target=come)
        visitor.start()
        try:
            try:
                ended = launch(*arguments, f"mode.port={port}")
            finally:
                with lock:
                    running[0] = False
        except KeyboardInterrupt:
            ended = None
        visitor.join()
        if failed:
            raise AssertionError(ended) from failed[0]
        return ended

    return run


@pytest.fixture
def visited(while_open, port):
    """Launch until a client has received the wanted messages."""

    def run(wanted, *arguments):
        def visit():
            viewer = connected(port)
            viewer.look(30)
            viewer.wait_for(*wanted, seconds=PATIENCE)
            viewer.close()

        return while_open(visit, *arguments)

    return run


def connected(port):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return Viewer(f"http://127.0.0.1:{port}")
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy", finished.run.relative_to(finished.folder)


@pytest.mark.parametrize("choice", ["", "checkpoint", "run"])
def test_the_newest_or_the_named_run_is_shown_until_ctrl_c(choice, copied, visited, port):
    folder, run = copied
    before = files(folder)
    wanted = ["BackgroundImageMessage", "GlbMessage", f"step 2, {run}"]
    ended = visited(wanted, folder, "mode=view", *([f"{choice}={run}"] if choice else []))
    # A process logs the chosen backend once, in whichever test comes first.
    said = [line for line in ended.text.splitlines() if " on cpu: " not in line]
    assert (ended.status, said) == (0, [f"open http://127.0.0.1:{port} (Ctrl-C closes it)", "closed"])
    assert files(folder) == before


def test_ctrl_c_while_the_window_is_being_filled_closes_it_too(copied, launch, port, monkeypatch):
    monkeypatch.setattr(
        "dreamfusion.mode.view.show_exported", lambda scene, window: os.kill(os.getpid(), signal.SIGINT)
    )
    ended = launch(copied[0], "mode=view", f"mode.port={port}")
    assert (ended.status, ended.text.splitlines()[-1]) == (0, "closed")


def test_with_a_prompt_it_trains_and_writes_the_files_of_a_training(visited, finished, port, tmp_path):
    wanted = ["guidance scale", "BackgroundImageMessage", "step 2, outputs/train/"]
    ended = visited(wanted, tmp_path, "mode=view", f"prompt={PROMPT}", "experiment=smoke")
    assert ended.status == 0, ended.text
    assert ended.text.startswith(f"open http://127.0.0.1:{port} (Ctrl-C closes it)\n")
    assert ended.text.endswith("closed\n")
    (run,) = tmp_path.glob("outputs/train/*/*")
    assert files(run) == files(finished.run)
    # mode=train can resume it without a window.
    assert OmegaConf.load(run / "config.yaml") == OmegaConf.load(finished.run / "config.yaml")


def test_the_buttons_in_a_browser_pause_guide_save_and_resume(while_open, port, browser, tmp_path):
    def button(label):
        return f"[...document.querySelectorAll('button')].find(button => button.innerText === '{label}')"

    def checkbox(label):
        found = f"[...document.querySelectorAll('label')].find(label => label.innerText === '{label}')"
        return f"document.getElementById({found}.htmlFor)"

    def say(pattern):
        """Wait for the page's text to match, and return the number in it."""
        return int(browser.wait_for(f"document.body?.innerText.match(/{pattern}/)?.[1]"))

    def see(is_wanted):
        """Wait for a contrast along the middle of the page; returns its picture."""
        end = time.monotonic() + PATIENCE
        while not is_wanted(contrast := np.ptp((seen := browser.picture())[450, :600].mean(axis=1))):
            assert time.monotonic() < end, f"the contrast is {contrast}"
        return seen

    def save(is_wanted):
        """Press save until the checkpoint is as wanted."""
        end = time.monotonic() + PATIENCE
        while True:
            before = stamp()
            browser.click(button("save"))
            while stamp() == before:
                assert time.monotonic() < end, "no checkpoint was written"
                time.sleep(0.05)
            content = read_checkpoint(checkpoint())
            if is_wanted(content):
                return content
            assert time.monotonic() < end, content["config"]

    def checkpoint():
        return next(tmp_path.glob("outputs/train/*/*/checkpoints/last.ckpt"), None)

    def stamp():
        return checkpoint() and checkpoint().stat().st_mtime_ns

    def visit():
        connected(port).close()
        browser.open(f"http://127.0.0.1:{port}")
        say(r"step (\d+) of 100000, gradient norm")
        assert checkpoint() is None
        browser.click(button("pause"))
        step = say(r"paused at step (\d+) of 100000")
        browser.wait_for(f"{button('continue')} !== undefined")

        # Each scene begins as a translucent ball.
        Image.fromarray(see(lambda contrast: contrast > 80)).save(tmp_path / "window.png")

        # The window keeps serving while the training is paused.
        browser.type("document.querySelector('input[inputmode=decimal]')", "7.5")
        paused = save(lambda content: content["config"]["distillation"]["guidance_scale"] == 7.5)
        browser.click(checkbox("scene"))
        see(lambda contrast: contrast < 10)
        browser.click(checkbox("scene"))
        see(lambda contrast: contrast > 80)
        again = save(lambda content: True)
        assert (paused["global_step"], again["global_step"]) == (step, step)
        assert say(r"paused at step (\d+) of 100000") == step

        browser.click(button("continue"))
        assert say(r"step (\d+) of 100000, gradient norm") > step
        resumed = save(lambda content: True)
        assert resumed["global_step"] > step
        assert resumed["config"]["distillation"]["guidance_scale"] == 7.5
        assert browser.problems == []

    ended = while_open(visit, tmp_path, "mode=view", "prompt=a cat", "experiment=smoke", "trainer.max_steps=100000")
    assert ended.status == 130, ended.text  # Ctrl-C during training
    assert "guidance scale 7.5 from step " in ended.text


@pytest.mark.parametrize("fails", [False, True])
def test_a_scene_from_a_checkpoint_is_exported_into_the_window_or_the_reason_is_shown(
    fails, copied, while_open, port, monkeypatch
):
    folder, run = copied
    (folder / run / "mesh.glb").unlink()
    seen = threading.Event()

    def press(scene, window):
        window._mailbox.post(window.on_export)

    def export(scene, settings):
        assert seen.wait(PATIENCE)
        if fails:
            raise EmptyFieldError("the scene shows nothing")
        return export_scene(scene, settings)

    monkeypatch.setattr("dreamfusion.mode.view.show_exported", press)
    monkeypatch.setattr("dreamfusion.mode.view.export_scene", export)
    settings = ["export.resolution=16", "export.texture=0", "export.threshold=5"]

    def visit():
        viewer = connected(port)
        viewer.look(30)
        viewer.wait_for("exporting", "BackgroundImageMessage")
        seen.set()
        viewer.wait_for(*(["no mesh", "the scene shows nothing"] if fails else ["GlbMessage", "mesh.glb: "]))
        viewer.close()

    ended = while_open(visit, folder, "mode=view", *settings)
    assert ended.status == 0, ended.text
    assert (folder / run / "mesh.glb").is_file() is not fails
    assert ended.text.count("mesh.glb: ") == (not fails)


def test_training_during_an_export_is_bit_for_bit_the_same(while_open, launch, port, tmp_path, monkeypatch):
    resumed, exported = threading.Event(), []

    def step(callback, trainer, *_):
        if trainer.global_step == 2:
            callback.mailbox.post(callback.window.on_export)
        elif trainer.global_step == 5:
            resumed.set()

    def export(scene, settings):
        assert resumed.wait(PATIENCE), "training did not continue"
        assert scene.step == 3
        made = export_scene(scene, settings)
        exported.append(made.path.name)
        return made

    monkeypatch.setattr(ViewCallback, "on_train_batch_start", step)
    monkeypatch.setattr("dreamfusion.mode.view.export_scene", export)
    settings = ["prompt=a cat", *QUICK, "trainer.max_steps=8"]

    def visit():
        viewer = connected(port)
        viewer.wait_for("GlbMessage", "step 8, outputs/train/")
        viewer.close()

    ended = while_open(visit, tmp_path, "mode=view", *settings)
    assert ended.status == 0, ended.text
    assert exported == ["mesh.glb"]
    assert ended.text.count("mesh.glb: ") == 1
    assert launch(tmp_path, "mode=train", *settings).status == 0
    viewed, trained = sorted(tmp_path.glob("outputs/train/*/*"), key=lambda run: run.stat().st_mtime_ns)
    first, second = (state(run / "checkpoints" / "last.ckpt") for run in (viewed, trained))
    assert_same(first, second)


def test_an_export_draws_no_random_numbers(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.folder)
    scene = load_scene(finished.run / "checkpoints" / "last.ckpt")
    before = torch.get_rng_state()
    export_scene(scene, scene.config.export)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("steps", "up", "scale"), [("2", "y", 4.0), ("1", "y", None), ("2", "z", None)], ids=["same", "older", "turned"]
)
def test_a_mesh_of_the_same_step_is_shown_at_the_scenes_size(steps, up, scale, tmp_path):
    corners = np.eye(4, 3, dtype=np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    metadata = {"steps": steps, "up": up, "metres_per_unit": "0.25"}
    (path,) = write_mesh(Mesh(corners, faces), tmp_path / "mesh.glb", metadata)
    shown = []
    window = SimpleNamespace(show_mesh=lambda glb, scale, visible: shown.append((glb, scale, visible)))
    show_exported(SimpleNamespace(run=tmp_path, step=2), window)
    assert shown == ([(path.read_bytes(), scale, False)] if scale else [])


def test_an_exported_mesh_stores_its_scale(copied, launch):
    folder, run = copied
    before = glb_metadata(folder / run / "mesh.glb")
    first = max(trimesh.load_mesh(folder / run / "mesh.glb").extents)
    settings = ["export.resolution=32", "export.texture=0", "export.faces=2000"]
    assert launch(folder, "mode=export", "export.size=0.25", *settings).status == 0
    after = glb_metadata(folder / run / "mesh.glb")
    longest = max(trimesh.load_mesh(folder / run / "mesh.glb").extents)
    assert longest == pytest.approx(0.25, rel=1e-4)
    assert (before["metres_per_unit"], before["up"], after["steps"]) == ("1", "y", "2")
    assert float(after["metres_per_unit"]) == pytest.approx(0.25 / first, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prompt=a cat", "checkpoint=latest"],
            "prompt=a cat begins a run, but checkpoint or run opens an existing one",
        ),
        (["prompt=a cat", "study=pets"], "mode=view shows one run, without -m, study or prompts.file"),
        (["prompts.file=x.txt"], "mode=view shows one run, without -m, study or prompts.file"),
        (["prompt=a cat", "experiment=refine"], "mode=view trains one stage; leave out mode=view"),
        (["prompt=a cat", "trainer.devices=2"], "trainer.devices is 2; mode=view trains in one process"),
        (["prompt=a cat", "seed=-1"], "seed is -1; it must be a whole number"),
        (["checkpoint=nowhere"], "no checkpoint at nowhere; type checkpoint=latest"),
        (["run=outputs/train"], "run=outputs/train matches 2 runs; mode=view shows one: type run=outputs/train/"),
        (["mode.sharp=0"], "mode.sharp is 0; it must be a whole number of at least 1"),
        (["mode.port=70000"], "mode.port is 70000; it must be from 1 to 64535, or 0 for any free port"),
        (["mode.host=192.0.2.1"], "mode.host is 192.0.2.1, which is not an address of this machine"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_settings_give_one_line_and_write_nothing(arguments, message, copied, launch):
    folder, run = copied
    shutil.copytree(folder / run, folder / run.with_name("again"))
    before = files(folder)
    ended = launch(folder, "mode=view", *arguments)
    assert (ended.status, ended.text.count("\n")) == (1, 1), ended.text
    assert ended.text.startswith("error: ")
    assert message in ended.text
    assert files(folder) == before


def test_a_run_at_work_elsewhere_is_not_exported_from_the_window(tmp_path):
    notified = []
    window = SimpleNamespace(notify=lambda *words: notified.append(words))
    with locked(tmp_path):
        export(SimpleNamespace(run=tmp_path), settings=None, window=window, held=False)()
    ((title, reason),) = notified
    assert (title, list(tmp_path.iterdir())) == ("no mesh", [])
    assert "another process is running in" in reason
