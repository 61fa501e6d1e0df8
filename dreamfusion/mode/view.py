"""`mode=view`: show a scene in a browser, from a checkpoint or during training; renders only for connected clients."""

import copy
import logging
import tempfile
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.data import CameraStream
from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive, typed
from dreamfusion.export.settings import ExportSettings
from dreamfusion.export.writer import glb_metadata, write_mesh
from dreamfusion.ops.memory import chosen_device
from dreamfusion.paths import LAST
from dreamfusion.runs.check import check
from dreamfusion.runs.dream import Outputs, dream
from dreamfusion.runs.export import describe, export_scene
from dreamfusion.runs.find import find_checkpoint, find_runs
from dreamfusion.runs.lock import locked
from dreamfusion.runs.names import relative_to_cwd
from dreamfusion.signals import Stop
from dreamfusion.training.assemble import user_errors
from dreamfusion.view.callback import ViewCallback
from dreamfusion.view.exports import Exports, failure
from dreamfusion.view.mailbox import Action, Mailbox
from dreamfusion.view.render_loop import RenderLoop
from dreamfusion.view.window import Window

log = logging.getLogger(__name__)
STILL = 0.25  # seconds without a move until a camera counts as still
CLOSING = "closing; press Ctrl-C again to end at once"
WAIT = 0.5  # seconds between two checks for Ctrl-C; all other events end the wait


@dataclass(frozen=True)
class ViewMode(Outputs):
    """The settings of conf/mode/view.yaml, which include those of mode=train; a call runs the mode."""

    host: str
    port: int
    coarse: int  # pixels along the longer side while the camera moves
    sharp: int  # pixels along the longer side when the camera is still
    every: int  # training steps between two pictures of a still camera

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("mode", coarse=self.coarse, sharp=self.sharp, every=self.every)

    def __call__(self, cfg: DictConfig) -> Path:
        """Open the window until Ctrl-C, with a prompt while training; returns the run's folder.

        Raises:
            UserError: a setting is invalid, or the settings describe several runs.
            SystemExit: with status 130, after Ctrl-C during training.
        """
        _check_single_run(cfg)
        mailbox = Mailbox(STILL, self.every, self.coarse, self.sharp)
        if cfg.prompt is None:
            export = ExportSettings.of(cfg.export)
            scene = load_scene(_find_single_run(cfg), chosen_device(cfg.trainer.accelerator))
            with (
                Stop(CLOSING) as stop,
                closing(Window(self.host, self.port, mailbox, str(scene.config.prompt))) as window,
            ):
                _serve_until(stop, window, mailbox, scene, export)
            return scene.run
        check(cfg)
        with user_errors():
            cameras = training_cameras(cfg)
        folder = relative_to_cwd(Path(HydraConfig.get().runtime.output_dir))
        with closing(Window(self.host, self.port, mailbox, str(cfg.prompt))) as window:
            export = ExportSettings.of(cfg.export)
            callback = ViewCallback(window, mailbox, cameras, _exports(window, mailbox, export, held=True))
            dream(train_settings(cfg), folder, self, callbacks=[callback])
            with Stop(CLOSING) as stop:
                scene = load_scene(folder / "checkpoints" / LAST, chosen_device(cfg.trainer.accelerator))
                _serve_until(stop, window, mailbox, scene, export)
        return folder


def train_settings(cfg: DictConfig) -> DictConfig:
    """The same settings with mode=train, for the run's files, so that mode=train can resume it."""
    settings = cfg.copy()
    settings.mode = {"_target_": "dreamfusion.mode.train.Train", **{f.name: cfg.mode[f.name] for f in fields(Outputs)}}
    return settings


def training_cameras(cfg: DictConfig) -> CameraStream:
    """The cameras of every training step."""
    return CameraStream(instantiate(cfg.camera), cfg.trainer.max_steps, int(cfg.seed))


def export(scene: TrainedScene, settings: ExportSettings, window: Window, held: bool) -> Action:
    """Export a scene; returns an action that shows the mesh, or the reason why there is none, in the window.

    `held`: this process holds the lock of the run already, because it trains the run.
    """
    try:
        with nullcontext() if held else locked(scene.run):
            exported = export_scene(scene, settings)
    except Exception as error:  # a look at the scene must not end its training
        return partial(window.notify, "no mesh", failure(error))
    text = f"{exported.path}: {', '.join(describe(exported))}"
    with tempfile.TemporaryDirectory() as folder:  # GLB in scene units, whatever the exported format and size
        (path,) = write_mesh(exported.surface.mesh, Path(folder) / "mesh.glb")
        glb = path.read_bytes()

    def show() -> None:
        log.info("%s", text)
        window.notify("mesh", text)
        window.show_mesh(glb, 1.0, visible=True)

    return show


def show_exported(scene: TrainedScene, window: Window) -> None:
    """Add the run's mesh.glb as a hidden layer if it was exported at the scene's step."""
    path = scene.run / "mesh.glb"
    metadata = glb_metadata(path)
    try:
        scale = 1 / float(metadata.get("metres_per_unit", ""))
    except (ValueError, ZeroDivisionError):  # exported by another program
        return
    if metadata.get("steps") == str(scene.step) and metadata.get("up") == "y":
        window.show_mesh(path.read_bytes(), scale, visible=False)


def _exports(window: Window, mailbox: Mailbox, settings: ExportSettings, held: bool) -> Exports:
    return Exports(window, mailbox, lambda scene: export(scene, settings, window, held))


def _serve_until(stop: Stop, window: Window, mailbox: Mailbox, scene: TrainedScene, settings: ExportSettings) -> None:
    """Serve a finished scene until `stop` has noted a signal; an exception could interrupt a render."""
    exports = _exports(window, mailbox, settings, held=False)
    cameras, device = training_cameras(scene.config), scene.scene.device
    render_loop = RenderLoop(window, mailbox, scene.scene, cameras, lambda: scene.step, device)
    window.on_export = lambda: exports.begin(copy.deepcopy(scene))
    window.set_status(f"step {scene.step}, {scene.run}")
    show_exported(scene, window)
    while stop.number is None:
        render_loop.serve()
        render_loop.wait(WAIT)
    exports.finish()
    log.info("closed")


def _find_single_run(cfg: DictConfig) -> Path:
    """The checkpoint that `checkpoint` or `run` names, by default the newest.

    Raises:
        UserError: no run, or several runs match.
    """
    if cfg.run is None:
        return find_checkpoint(cfg.checkpoint or "latest")
    runs = find_runs(cfg.run)
    if len(runs) > 1:
        raise UserError(f"run={cfg.run} matches {len(runs)} runs; mode=view shows one: type {typed('run', runs[-1])}")
    return find_checkpoint(str(runs[0]))


def _check_single_run(cfg: DictConfig) -> None:
    """Raises: UserError: the settings describe several runs, several processes, or both a new and an existing run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN or cfg.study is not None or cfg.prompts.file is not None:
        raise UserError('mode=view shows one run, without -m, study or prompts.file; type mode=view prompt="a cat"')
    if cfg.prompt is not None and (cfg.checkpoint is not None or cfg.run is not None):
        raise UserError(
            f"prompt={cfg.prompt} begins a run, but checkpoint or run opens an existing one; type only one of them"
        )
    if cfg.prompt is not None and cfg.get("refine") is not None:
        raise UserError("mode=view trains one stage; leave out mode=view, and open the result: mode=view run=FOLDER")
    if cfg.prompt is not None and OmegaConf.select(cfg, "trainer.devices") not in (1, "auto"):
        raise UserError(f"trainer.devices is {cfg.trainer.devices}; mode=view trains in one process: trainer.devices=1")
