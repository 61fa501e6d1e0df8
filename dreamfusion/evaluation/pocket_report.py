"""Evaluation report of the pocket prior (`mode=evaluate_prior`): measure, tabulate, write JSON and a contact sheet."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamfusion.evaluation.pocket_prior import Accuracy, Retrieval, Views
from dreamfusion.files import write_json
from dreamfusion.guidance.pocket import PocketPrior
from dreamfusion.guidance.sampling import sample_images, start_noise
from dreamfusion.image import contact_sheet, write_image
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.renders import render_cameras
from dreamfusion.pocket.model.denoiser import with_appearance
from dreamfusion.pocket.model.text import CaptionCache
from dreamfusion.pocket.training.errors import errors_by_level
from dreamfusion.types import Conditioning

log = logging.getLogger(__name__)
TRIPLETS = 5  # per row of the contact sheet


@dataclass(frozen=True, eq=False)
class PocketReport:
    """Held-out losses by timestep, and sample scores beside their ceilings."""

    settings: dict[str, Any]
    losses: dict[str, float]
    retrieval: Retrieval
    color: Accuracy
    azimuth: Accuracy
    seconds: int  # measuring took

    def write(self, path: Path) -> None:
        """Write JSON to `path`, and retrieval.png beside it."""
        content = {
            **self.settings,
            "loss": self.losses,
            "retrieval": _retrieval_entry(self.retrieval),
            "color": _accuracy_entry(self.color),
            "azimuth": _accuracy_entry(self.azimuth),
            "seconds": self.seconds,
        }
        write_json(path, content, indent=2)
        write_image(self.sheet(), path.with_name("retrieval.png"))

    def table(self) -> str:
        """The report as a Markdown table."""
        rows = [("figure", "samples", "real renders"), ("---", "---:", "---:")]
        rows += [(f"loss on held-out views, {level} of 1000", f"{loss:.5f}", "") for level, loss in self.losses.items()]
        found = self.retrieval
        for count in (1, 5):
            name = f"model among the nearest {count} of {len(found.nouns)}"
            rows.append((name, f"{found.top(count):.0%}", f"{found.ceiling(count):.0%}"))
        for name, accuracy in (("colour", self.color), ("front is not back", self.azimuth)):
            if not accuracy.prompts:  # no object has a distinct front
                continue
            rows.append((f"{name}, of {len(accuracy.prompts)}", f"{accuracy.share:.0%}", f"{accuracy.ceiling:.0%}"))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def sheet(self) -> np.ndarray:
        """Sample, nearest render and correct render of each noun, TRIPLETS per row: (H, W, 3) uint8."""
        pictures = [np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8) for picture in self.retrieval.triplets]
        return contact_sheet(pictures, 3 * TRIPLETS, gap=2)


def held_out_losses(prior: PocketPrior, data: RenderBatches, size: int) -> dict[str, float]:
    """Mean squared error of the clean estimate on `size` held-out views, by timestep, as in `mode=pretrain`."""
    device = prior.alphas_cumprod.device
    batch = data.validation(size).to(device)
    if not prior.model.takes_sentence:  # such networks were trained without background and light features
        batch = replace(batch, camera=with_appearance(batch.camera, torch.zeros_like(batch.camera[:, -2:])))
    text = CaptionCache(prior.text_encoder)(batch.captions).to(device)
    errors, _ = errors_by_level(prior.model, text, batch)
    return {f"t{level}": float(error.mean()) for level, error in errors.items()}


class PriorSampler:
    """Sample pictures of prompts from given views; a `pocket_prior.Sampler`."""

    def __init__(self, prior: PocketPrior, scale: float, steps: int, batch_size: int, seed: int) -> None:
        self.prior, self.scale, self.steps, self.batch_size, self.seed = prior, scale, steps, batch_size, seed

    def __call__(self, prompts: Sequence[str], views: Views) -> np.ndarray:
        """Pictures (B, r, r, 3) in [0, 1]; the start noise depends on the seed alone."""
        device = self.prior.alphas_cumprod.device
        noise = start_noise(self.prior, len(prompts), torch.Generator().manual_seed(self.seed))
        pictures = []
        for first in range(0, len(prompts), self.batch_size):
            part = slice(first, first + self.batch_size)
            texts = list(prompts[part])
            azimuth, elevation, distance = views.azimuth[part], views.elevation[part], views.distance[part]
            cameras = render_cameras(azimuth, elevation, distance, self.prior.resolution)
            null = self.prior.encode_text([""] * len(texts))
            conditioning = Conditioning(self.prior.encode_text(texts), null, cameras).to(device)
            images = sample_images(self.prior, conditioning, noise[part], self.scale, self.steps)
            pictures.append(images.float().permute(0, 2, 3, 1).cpu().numpy())
            log.info("sampled %d of %d", min(first + self.batch_size, len(prompts)), len(prompts))
        return np.concatenate(pictures)


def _retrieval_entry(retrieval: Retrieval) -> dict[str, Any]:
    return {
        "nouns": len(retrieval.nouns),
        "top1": retrieval.top(1),
        "top5": retrieval.top(5),
        "ceiling_top1": retrieval.ceiling(1),
        "ceiling_top5": retrieval.ceiling(5),
        "rank": dict(zip(retrieval.nouns, retrieval.rank.tolist(), strict=True)),
    }


def _accuracy_entry(accuracy: Accuracy) -> dict[str, Any]:
    correct = dict(zip(accuracy.prompts, accuracy.correct, strict=True))
    shares = {"share": accuracy.share, "ceiling": accuracy.ceiling} if correct else {}
    return {"asked": len(correct), **shares, "right": correct}
