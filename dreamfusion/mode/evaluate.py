"""`mode=evaluate`: score the scenes of one or many runs; needs neither guidance nor prompt."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, user_message
from dreamfusion.evaluation.clip_scores import clip_scores
from dreamfusion.evaluation.image_reward import ImageReward
from dreamfusion.evaluation.t3bench import quality
from dreamfusion.export.settings import ExportSettings
from dreamfusion.files import is_full
from dreamfusion.guidance.clip import ClipPrior
from dreamfusion.mesh.extract import extract_surface
from dreamfusion.paths import run_of
from dreamfusion.pocket.data.captions import with_article
from dreamfusion.runs.evaluate import evaluate_run, evaluation_file
from dreamfusion.runs.find import find_checkpoint, find_runs, run_choice
from dreamfusion.runs.lock import locked
from dreamfusion.runs.prompt_list import read_prompts
from dreamfusion.runs.scores import Judge, own_scores
from dreamfusion.truth.store import names

log = logging.getLogger(__name__)


def run(cfg: DictConfig, clip: str | None, captions: str | None, image_reward: str | None) -> list[Path]:
    """Write evaluation.json into the folder of the run, or of all runs that `run` or `study` names.

    The mesh is made with the run's own settings, unless the command names one of `export`.

    Logs the means over several runs. Skips runs that fail, with a warning, unless there is only one.
    """
    choice = run_choice(cfg)
    judges = [] if clip is None else [_clip_judge(clip, _captions(captions))]
    judges += [] if image_reward is None else [_t3bench_judge(image_reward, partial(_mesh_settings, cfg))]
    judges.append(own_scores(cfg.get("scores")))
    runs = [None] if choice is None else find_runs(choice)
    written, found = [], []
    for number, folder in enumerate(runs, 1):
        checkpoint = find_checkpoint(cfg.checkpoint or "latest" if folder is None else str(folder))
        try:
            with locked(run_of(checkpoint)):
                scene = load_scene(checkpoint)
                scores = evaluate_run(scene, _mesh_settings(cfg, scene.config), judges)
        except (UserError, OSError) as error:
            if len(runs) == 1 or is_full(error):
                raise
            log.warning("%s: not evaluated: %s", folder, user_message(error))
            continue
        written.append(evaluation_file(scene))
        found.append(scores)
        log.info("%d of %d: %s\n  %s", number, len(runs), _text(scores), written[-1])
    if len(found) > 1:
        log.info("mean of %d runs: %s", len(found), _text(_means(found)))
    return written


def _mesh_settings(cfg: DictConfig, run: DictConfig) -> ExportSettings:
    """The mesh's settings of the run itself, as in its first scores; those of the command if it names one."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    if any(word.lstrip("+~").startswith(("export=", "export.")) for word in words):
        return ExportSettings.of(cfg.export)
    both = OmegaConf.merge(cfg.export, run.export)  # a run of earlier days lacks what is new
    assert isinstance(both, DictConfig)
    return ExportSettings.of(both)


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each score over the runs that have it."""
    names = dict.fromkeys(name for scores in found for name in scores)
    return {name: fmean(scores[name] for scores in found if name in scores) for name in names}


def _text(scores: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items())


def _captions(path: str | None) -> list[str]:
    """Raises: UserError: the file has no two captions."""
    if path is None:
        return [with_article(name) for name in names()]
    found = read_prompts(Path(path).expanduser(), "mode.captions")
    if len(found) < 2:
        raise UserError(
            f"mode.captions={path} has {len(found)} captions; R-Precision tells apart two or more, one a line"
        )
    return found


def _clip_judge(model: str, captions: list[str]) -> Judge:
    """CLIP's scores; the prompt joins the captions if it is none of them."""
    clip = ClipPrior(model, None, 1.0, "uniform")
    clip.to("cuda" if torch.cuda.is_available() else "cpu")
    known = clip.encode_text(captions).pooled
    assert known is not None

    def judge(scene: TrainedScene) -> dict[str, float]:
        # CLIP reads small letters alone: "A cat" is the caption "a cat".
        prompt, texts, rows = str(scene.config.prompt).lower(), [caption.lower() for caption in captions], known
        if prompt not in texts:
            texts.append(prompt)
            own = clip.encode_text([prompt]).pooled
            assert own is not None
            rows = torch.cat([known, own])
        return clip_scores(clip, scene.scene, scene.camera, prompt, texts, rows)

    return judge


def _t3bench_judge(model: str, settings: Callable[[DictConfig], ExportSettings]) -> Judge:
    """T3Bench's quality of the exported mesh, by ImageReward; `settings` are those of the mesh of a run."""
    reward = ImageReward.load(model)
    reward.to("cuda" if torch.cuda.is_available() else "cpu")
    device = next(reward.parameters()).device

    def judge(scene: TrainedScene) -> dict[str, float]:
        mesh = extract_surface(scene.scene, scene.camera, settings(scene.config)).mesh
        prompt = str(scene.config.prompt)
        return {"t3bench_quality": quality(mesh, lambda rgb: reward(prompt, rgb.to(device)).cpu())}

    return judge
