"""`mode=view`: a scene in the browser, from a checkpoint or during training. Renders only while watched."""

from __future__ import annotations

import copy
import logging
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.data import CameraStream
from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.export.settings import check_export
from dreamfusion.export.writer import glb_metadata, write_mesh
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.runs.dream import Outputs, check, dream, relative_to_cwd
from dreamfusion.runs.export import describe, export_scene
from dreamfusion.runs.find import find_checkpoint, find_runs
from dreamfusion.training.assemble import user_errors
from dreamfusion.view.callback import ViewCallback
from dreamfusion.view.exports import Exports
from dreamfusion.view.mailbox import Action, Mailbox
from dreamfusion.view.render_loop import RenderLoop, Sizes
from dreamfusion.view.window import Window

log = logging.getLogger(__name__)
STILL = 0.25  # seconds without a move, after which a camera is still
WAIT = 0.5  # seconds between two looks whether Ctrl-C was pressed; whatever else happens wakes the window before


@dataclass(frozen=True)
class ViewMode(Outputs):
    """The settings of conf/mode/view.yaml, mode=train's among them; a call runs the mode."""

    host: str
    port: int
    coarse: int  # pixels along the longer side while the camera moves
    sharp: int  # pixels along the longer side when the camera is still
    every: int  # training steps between two pictures of a still camera

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("mode", coarse=self.coarse, sharp=self.sharp, every=self.every)

    def __call__(self, cfg: DictConfig) -> Path:
        """Open the window, and with a prompt train while it is open, until Ctrl-C. Returns the folder of the run.

        Raises:
            UserError: a part refuses its settings, or they describe several runs.
            SystemExit: with status 130, after a Ctrl-C that ended training.
        """
        _check_single_run(cfg)
        mailbox, sizes = Mailbox(STILL, self.every), Sizes(self.coarse, self.sharp)
        if cfg.prompt is None:
            check_export(cfg.export)
            scene = load_scene(_find_single_run(cfg))
            with _open_window(self.host, self.port, mailbox, str(scene.config.prompt)) as window:
                _serve_until_interrupt(window, mailbox, sizes, scene, _exports(window, mailbox, cfg.export))
            return scene.run
        check(cfg)
        with user_errors():
            cameras = training_cameras(cfg)
        folder = relative_to_cwd(Path(HydraConfig.get().runtime.output_dir))
        with _open_window(self.host, self.port, mailbox, str(cfg.prompt)) as window:
            exports = _exports(window, mailbox, cfg.export)
            dream(
                train_settings(cfg),
                folder,
                self,
                extra_callbacks=[ViewCallback(window, mailbox, sizes, cameras, exports)],
            )
            _serve_until_interrupt(window, mailbox, sizes, load_scene(folder / "checkpoints" / "last.ckpt"), exports)
        return folder


def train_settings(cfg: DictConfig) -> DictConfig:
    """The settings of the same run without a window, for its files and for resuming it with mode=train."""
    settings = cfg.copy()
    settings.mode = {"_target_": "dreamfusion.mode.train.Train", **{f.name: cfg.mode[f.name] for f in fields(Outputs)}}
    return settings


def training_cameras(cfg: DictConfig) -> CameraStream:
    """The cameras of every step of the run with these settings."""
    return CameraStream(instantiate(cfg.camera), cfg.trainer.max_steps, int(cfg.seed))


def export(scene: TrainedScene, settings: DictConfig, window: Window) -> Action:
    """`mode=export` of a scene; returns how its mesh then takes its place in the window, or what is said instead."""
    try:
        exported = export_scene(scene, settings)
    except (EmptyFieldError, UserError, OSError, ImportError) as error:
        return partial(window.notify, "no mesh", str(error))
    text = f"{exported.path}: {', '.join(describe(exported))}"
    with tempfile.TemporaryDirectory() as folder:  # whatever format was asked for, and at the scene's size
        (path,) = write_mesh(exported.surface.mesh, Path(folder) / "mesh.glb")
        glb = path.read_bytes()

    def show() -> None:
        log.info("%s", text)
        window.notify("mesh", text)
        window.show_mesh(glb, 1.0, visible=True)

    return show


def show_exported(scene: TrainedScene, window: Window) -> None:
    """The run's mesh.glb as a layer, hidden at first, where it is of the same step."""
    path = scene.run / "mesh.glb"
    told = glb_metadata(path)
    if told.get("steps") == str(scene.step) and told.get("up") == "y":
        window.show_mesh(path.read_bytes(), 1 / float(told["metres_per_unit"]), visible=False)


@contextmanager
def _open_window(host: str, port: int, mailbox: Mailbox, title: str) -> Iterator[Window]:
    window = Window(host, port, mailbox, title)
    try:
        yield window
    finally:
        window.close()


def _exports(window: Window, mailbox: Mailbox, settings: DictConfig) -> Exports:
    return Exports(window, mailbox, lambda scene: export(scene, settings, window))


def _serve_until_interrupt(
    window: Window, mailbox: Mailbox, sizes: Sizes, scene: TrainedScene, exports: Exports
) -> None:
    """Serve a scene that no longer changes, until Ctrl-C."""
    render_loop = RenderLoop(window, mailbox, sizes, scene.scene, training_cameras(scene.config), lambda: scene.step)
    window.on_export = lambda: exports.begin(copy.deepcopy(scene))
    window.set_status(f"step {scene.step}, {scene.run}")
    show_exported(scene, window)
    with _interrupt() as pressed:
        while not pressed():
            render_loop.serve()
            render_loop.wait(WAIT)
        exports.finish()
    log.info("closed")


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one raises.

    An exception may come up anywhere in the middle of a picture, and in a destructor it would be lost.
    """
    presses: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if presses:
            raise KeyboardInterrupt
        presses.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(presses)
    finally:
        signal.signal(signal.SIGINT, before)


def _find_single_run(cfg: DictConfig) -> Path:
    """The checkpoint that `checkpoint` or `run` names, the newest without either.

    Raises:
        UserError: there is none, or there are several.
    """
    if cfg.run is None:
        return find_checkpoint(cfg.checkpoint or "latest")
    runs = find_runs(cfg.run)
    if len(runs) > 1:
        raise UserError(f"run={cfg.run} names {len(runs)} runs; a window shows one, such as run={runs[-1]}")
    return find_checkpoint(str(runs[0]))


def _check_single_run(cfg: DictConfig) -> None:
    """Raises: UserError: a setting that makes many runs, or a run of many processes, or both a new and an old run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN or cfg.study is not None or cfg.prompts.file is not None:
        raise UserError('mode=view shows one run: no -m, study or prompts.file; type mode=view prompt="a cat"')
    if cfg.prompt is not None and (cfg.checkpoint is not None or cfg.run is not None):
        raise UserError(
            f"there is a prompt, {cfg.prompt}, which begins a run, and a checkpoint or run to open; type one of the two"
        )
    if cfg.prompt is not None and OmegaConf.select(cfg, "trainer.devices") not in (1, "auto"):
        raise UserError(f"trainer.devices is {cfg.trainer.devices}; mode=view trains in one process: trainer.devices=1")
