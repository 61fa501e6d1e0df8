"""`mode=evaluate`: what the pocket prior has learned, in figures: evaluation.json, a table, and a sheet of pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from dreamfusion.camera.orbit import focal_to_fov, look_from, spherical
from dreamfusion.error import UserError, check_positive
from dreamfusion.evaluation.pocket_prior import Answers, Evaluation, Retrieval, Views
from dreamfusion.files import replacing
from dreamfusion.guidance.pocket import PocketPrior
from dreamfusion.guidance.sampling import sample_images, start_noise
from dreamfusion.image import contact_sheet, write_image
from dreamfusion.mode.pretrain import read_names
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.renders import RenderSet
from dreamfusion.pocket.model.denoiser import with_look
from dreamfusion.pocket.training.card import CARD_FILE, add_evidence
from dreamfusion.types import Cameras, Conditioning

log = logging.getLogger(__name__)
FOCAL = 1.374  # focal length over image height of the renders: a vertical field of view of 40 degrees
TRIPLETS = 5  # in one row of the sheet


def run(
    cfg: DictConfig,
    renders: str,
    names: str | None,
    folder: str,
    validation_size: int,
    nouns: int,
    colors: int,
    sides: int,
    steps: int,
    guidance_scale: float | None,
    batch_size: int,
    card: bool,
) -> Path:
    """Measure the weights that `guidance.weights` names; returns the path of evaluation.json."""
    check_positive("mode", nouns=nouns, colors=colors, sides=sides, steps=steps)
    prior = instantiate(cfg.guidance)
    if not isinstance(prior, PocketPrior):
        raise UserError(f"mode=evaluate measures the pocket prior, not {prior.name}; type guidance=pocket")
    prior.to("cuda" if torch.cuda.is_available() else "cpu")
    weights = WEIGHTS if cfg.guidance.weights is None else Path(cfg.guidance.weights)
    if card and not (weights / CARD_FILE).is_file():
        raise UserError(f"mode.card=true, but there is no model card {weights / CARD_FILE}; mode=pretrain writes one")
    wanted = None if names is None else read_names(Path(names))
    data = RenderBatches(RenderSet.load(Path(renders)), batch_size, cfg.seed, wanted)
    scale = prior.sample_scale if guidance_scale is None else guidance_scale
    started = time.monotonic()
    losses = held_out_losses(prior, data, validation_size)
    evaluation = Evaluation(data, PriorSampler(prior, scale, steps, batch_size, cfg.seed), cfg.seed)
    retrieval, colored, sided = evaluation.retrieval(nouns), evaluation.colors(colors), evaluation.azimuth(sides)
    report = {
        "weights": str(cfg.guidance.weights or "package"),
        "seed": cfg.seed,
        "steps": steps,
        "guidance_scale": scale,
        "models": len(data.models),
        "names": len(data.names),
        "loss": losses,
        "retrieval": _retrieval_report(retrieval),
        "color": _answers_report(colored),
        "azimuth": _answers_report(sided),
        "seconds": round(time.monotonic() - started),
    }
    path = Path(folder) / "evaluation.json"
    with replacing(path) as draft:
        draft.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_image(_sheet(retrieval), path.with_name("retrieval.png"))
    found = table(losses, retrieval, colored, sided)
    if card:
        add_evidence(weights, found)
    log.info("\n%s\n%s", found, path)
    return path


def held_out_losses(prior: PocketPrior, data: RenderBatches, size: int) -> dict[str, float]:
    """Mean squared error of the clean estimate on held-out views, by timestep, as `mode=pretrain` reports it."""
    from dreamfusion.pocket.model.text import CaptionCache
    from dreamfusion.pocket.training.pretraining import errors_by_level

    device = prior.alphas_cumprod.device
    batch = data.validation(size).to(device)
    if not prior.model.takes_sentence:  # the first prior, which was told nothing of background and light
        batch = replace(batch, camera=with_look(batch.camera, torch.zeros_like(batch.camera[:, -2:])))
    text = CaptionCache(prior.text_encoder)(batch.captions).to(device)
    errors, _ = errors_by_level(prior.model, text, batch)
    return {f"t{level}": float(error.mean()) for level, error in errors.items()}


class PriorSampler:
    """Prompts and views -> pictures; an `evaluation.Sampler`."""

    def __init__(self, prior: PocketPrior, scale: float, steps: int, batch_size: int, seed: int) -> None:
        self.prior, self.scale, self.steps, self.batch_size, self.seed = prior, scale, steps, batch_size, seed

    def __call__(self, prompts: Sequence[str], views: Views) -> np.ndarray:
        """Pictures (B, r, r, 3) in [0, 1], from noise that depends on the seed alone."""
        device = self.prior.alphas_cumprod.device
        noise = start_noise(self.prior, len(prompts), torch.Generator().manual_seed(self.seed))
        pictures = []
        for first in range(0, len(prompts), self.batch_size):
            part = slice(first, first + self.batch_size)
            texts = list(prompts[part])
            conditioning = Conditioning(
                self.prior.encode_text(texts), self.prior.encode_text([""] * len(texts)), self._cameras(views, part)
            ).to(device)
            images = sample_images(self.prior, conditioning, noise[part], self.scale, self.steps)
            pictures.append(images.float().permute(0, 2, 3, 1).cpu().numpy())
            log.info("sampled %d of %d", min(first + self.batch_size, len(prompts)), len(prompts))
        return np.concatenate(pictures)

    def _cameras(self, views: Views, part: slice) -> Cameras:
        azimuth, elevation, distance = (
            torch.from_numpy(np.asarray(a[part], dtype=np.float32))
            for a in (views.azimuth, views.elevation, views.distance)
        )
        position = spherical(azimuth, elevation, distance)
        up = torch.tensor([0.0, 1.0, 0.0]).expand_as(position)
        fov = focal_to_fov(torch.full_like(azimuth, FOCAL))
        size = self.prior.resolution
        return look_from(position, torch.zeros_like(position), up, fov, position, size, size)


def table(losses: dict[str, float], retrieval: Retrieval, colored: Answers, sided: Answers) -> str:
    """The report as Markdown."""
    rows = [("figure", "samples", "real renders"), ("---", "---:", "---:")]
    rows += [(f"loss on held-out views, {level} of 1000", f"{loss:.5f}", "") for level, loss in losses.items()]
    for count in (1, 5):
        name = f"model among the nearest {count} of {len(retrieval.nouns)}"
        rows.append((name, f"{retrieval.top(count):.0%}", f"{retrieval.ceiling(count):.0%}"))
    for name, answers in (("colour", colored), ("front is not back", sided)):
        rows.append((f"{name}, of {len(answers.asked)}", f"{answers.share:.0%}", f"{answers.ceiling:.0%}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _retrieval_report(retrieval: Retrieval) -> dict[str, Any]:
    return {
        "nouns": len(retrieval.nouns),
        "top1": retrieval.top(1),
        "top5": retrieval.top(5),
        "ceiling_top1": retrieval.ceiling(1),
        "ceiling_top5": retrieval.ceiling(5),
        "rank": dict(zip(retrieval.nouns, retrieval.rank.tolist(), strict=True)),
    }


def _answers_report(answers: Answers) -> dict[str, Any]:
    right = dict(zip(answers.asked, answers.right, strict=True))
    return {"asked": len(answers.asked), "share": answers.share, "ceiling": answers.ceiling, "right": right}


def _sheet(retrieval: Retrieval) -> np.ndarray:
    """Sample, nearest, right one of each noun, TRIPLETS to a row."""
    pictures = [np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8) for picture in retrieval.triplets]
    return contact_sheet(pictures, 3 * TRIPLETS, gap=2)
