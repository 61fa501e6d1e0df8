"""The Python API: `dream` makes a run, `compose` a configuration, as the command line does; `load_scene` reads one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dreamfusion.cli.console import filter_messages
from dreamfusion.cli.folders import with_search_path
from dreamfusion.cli.quoting import quote_texts
from dreamfusion.cli.resolvers import register
from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION
from dreamfusion.runs.names import OUTPUTS, moment, run_folder
from dreamfusion.runs.results import read_result
from dreamfusion.runs.summary import read_summary
from dreamfusion.untrusted import trust

if TYPE_CHECKING:
    from dreamfusion.checkpoint import TrainedScene

ELSEWHERE = ("checkpoint", "config", "study", "prompts.file")  # settings that `dream` does not take
Folders: TypeAlias = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class Run:
    """A finished run; in a notebook its representation is the turntable and the scores."""

    folder: Path

    @property
    def mesh(self) -> Path | None:
        """The mesh file, in the format of `export`; None if the scene has no surface."""
        from dreamfusion.export.settings import mesh_file

        path = self.folder / mesh_file(str(self.settings.get("export.format", "glb")))
        return path if path.is_file() else None

    @property
    def turntable(self) -> Path:
        """The video of the scene from all sides."""
        return self.folder / "turntable.mp4"

    @property
    def page(self) -> Path:
        """The HTML page with model, video and curves, for a browser."""
        return self.folder / "index.html"

    @property
    def scores(self) -> dict[str, float]:
        """The figures of the run by name: prior_score, silhouette_iou, color_difference, seconds, triangles, ..."""
        return read_summary(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run by dotted name."""
        result = read_result(self.folder)
        return {} if result is None else dict(result.settings)

    def _repr_html_(self) -> str:
        from dreamfusion.report.template import data_url

        scores = escape(
            json.dumps({k: round(v, 3) for k, v in self.scores.items() if isinstance(v, float)}, allow_nan=False)
        )
        video = f'<video src="{data_url(self.turntable)}" autoplay muted loop playsinline controls></video>'
        return f"{video}<pre>{scores}\n{escape(str(self.folder))}</pre>"


def compose(overrides: Sequence[str] = (), config_dir: Folders = None) -> DictConfig:
    """The configuration that the command line composes from the same overrides, such as `["guidance=sd", "seed=1"]`.

    `config_dir`: folder or folders with options of your own, as `--config-dir`.

    Raises:
        hydra.errors.HydraException: an override that does not exist or cannot be parsed.
        UserError: there is no such folder.
    """
    register()
    with_search_path(_trusted(config_dir))
    GlobalHydra.instance().clear()  # a notebook may call this any number of times
    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        return hydra_compose("config", overrides=quote_texts(overrides))


def dream(
    prompt: str | None = None,
    *overrides: str,
    steps: int | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    image: str | Path | None = None,
    live: bool = False,
    config_dir: Folders = None,
) -> Run:
    """Train a scene for `prompt`, or from a picture, and write its mesh, turntable and page.

    Args:
        prompt: any text; None: `image` is given, and the pocket prior finds what it shows.
        overrides: settings as on the command line, such as `"guidance=sd"` or `"camera.views=4"`.
        steps: training steps; None is the configuration's number.
        seed: of everything random; None is the configuration's, 0.
        image: file with a picture of the object, which the scene must look like from one side.
        folder: of the run; None is outputs/train/<prompt>/<time>/ in the working directory.
        live: show a picture of the scene and the curve of the gradient norm below the notebook's cell.
        config_dir: folder or folders with options of your own, as `--config-dir`.

    Raises:
        UserError: settings that no run can have.
    """
    from dreamfusion.ops.backend import make_deterministic, prefer
    from dreamfusion.runs.check import check, check_image
    from dreamfusion.runs.dream import Outputs
    from dreamfusion.runs.dream import dream as run
    from dreamfusion.runs.reference import described
    from dreamfusion.runs.refine import refine
    from dreamfusion.training.notebook import LiveFigure

    texts = {"prompt": prompt, "image": image, "seed": seed, "trainer.max_steps": steps}
    named = [f"{name}={value}" for name, value in texts.items() if value is not None]
    cfg = compose([*overrides, *named], config_dir)
    filter_messages()
    prefer(cfg.ops)
    make_deterministic(cfg.deterministic)
    if image is not None:
        check_image(cfg)
        cfg = described(cfg)
    check(cfg)
    if others := [name for name in ELSEWHERE if OmegaConf.select(cfg, name) is not None]:
        raise UserError(f"{others[0]} belongs to the command line; dream makes a new run of one prompt: leave it out")
    name = moment()
    path = OUTPUTS / run_folder("train", cfg.prompt, None, name) if folder is None else Path(folder)
    outputs = Outputs(**{f.name: cfg.mode[f.name] for f in fields(Outputs)})
    done = run(cfg, path, outputs, callbacks=[LiveFigure()] if live else ())
    refine(cfg, done, outputs)
    return Run(done)


def load_scene(run: Run | str | Path, config_dir: Folders = None, device: str = "cpu") -> "TrainedScene":
    """The trained scene of a run, its folder or a checkpoint file, with its cameras and its configuration.

    `config_dir`: folder or folders with options of your own, without which their classes are not built.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    from dreamfusion.checkpoint import load_scene as load
    from dreamfusion.runs.find import find_checkpoint

    _trusted(config_dir)
    return load(find_checkpoint(str(run.folder if isinstance(run, Run) else run)), device)


def _trusted(config_dir: Folders) -> list[Path]:
    """The folders as paths, whose classes may be built from now on.

    Raises:
        UserError: there is no such folder.
    """
    named = [config_dir] if isinstance(config_dir, str | Path) else config_dir or []
    folders = [Path(folder).expanduser() for folder in named]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; config_dir is the folder with your own options")
        trust(folder)
    return folders
