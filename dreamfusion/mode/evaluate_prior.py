"""`mode=evaluate_prior`: score the pocket prior's weights; writes evaluation.json, a table and a contact sheet."""

import logging
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from dreamfusion.error import UserError, check_positive
from dreamfusion.evaluation.pocket_prior import Evaluation
from dreamfusion.evaluation.pocket_report import PocketReport, PriorSampler, held_out_losses
from dreamfusion.guidance.pocket import PocketPrior
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.names import read_names
from dreamfusion.pocket.data.renders import RenderSet
from dreamfusion.pocket.training.card import CARD_FILE, add_evidence

log = logging.getLogger(__name__)


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
    """Evaluate the weights in `guidance.weights`; returns the path of evaluation.json."""
    check_positive("mode", nouns=nouns, colors=colors, sides=sides, steps=steps)
    prior = instantiate(cfg.guidance)
    if not isinstance(prior, PocketPrior):
        raise UserError(f"mode=evaluate_prior measures the pocket prior, not {prior.name}; type guidance=pocket")
    prior.to("cuda" if torch.cuda.is_available() else "cpu")
    weights = WEIGHTS if cfg.guidance.weights is None else Path(cfg.guidance.weights)
    if card and not (weights / CARD_FILE).is_file():
        raise UserError(f"mode.card=true, but there is no model card {weights / CARD_FILE}; mode=pretrain writes one")
    selected = None if names is None else read_names(Path(names))
    stored = RenderSet.load(Path(renders))
    stored = stored.halved() if stored.resolution == 2 * prior.resolution else stored
    data = RenderBatches(stored, batch_size, cfg.seed, selected)
    scale = prior.sample_scale if guidance_scale is None else guidance_scale
    settings = {"weights": str(cfg.guidance.weights or "package"), "seed": cfg.seed, "steps": steps}
    settings |= {"guidance_scale": scale, "models": len(data.models), "names": len(data.names)}
    started = time.monotonic()
    losses = held_out_losses(prior, data, validation_size)
    evaluation = Evaluation(data, PriorSampler(prior, scale, steps, batch_size, cfg.seed), cfg.seed)
    scores = evaluation.retrieval(nouns), evaluation.colors(colors), evaluation.azimuth(sides)
    report = PocketReport(settings, losses, *scores, round(time.monotonic() - started))
    path = Path(folder) / "evaluation.json"
    report.write(path)
    if card:
        add_evidence(weights, report.table())
    log.info("\n%s\n%s", report.table(), path)
    return path
