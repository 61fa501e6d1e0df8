"""`mode=image`: apply a distillation method to pictures, or to latents of the prior, without a scene."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from dreamfusion.camera.orbit import Orbit
from dreamfusion.distillation.base import Distillation
from dreamfusion.error import UserError, check_positive
from dreamfusion.files import replacing
from dreamfusion.guidance.prior import Prior
from dreamfusion.image import as_uint8, contact_sheet, enlarged, write_image
from dreamfusion.prompting.table import Prompting
from dreamfusion.randomness import Stream, step_generator
from dreamfusion.runs.check import check_prompt
from dreamfusion.training.assemble import user_errors

log = logging.getLogger(__name__)
SPACES = ("pixels", "latents")
GAP = 2  # pixels between pictures


def run(
    cfg: DictConfig,
    images: int,
    space: str,
    steps: int,
    learning_rate: float,
    snapshots: int,
    azimuths: Sequence[float],
    elevation: float,
) -> Path:
    """Write images.png (rows: snapshots, columns: images) and images.json (figures) into the run's folder."""
    check_prompt(cfg.prompt)
    check_positive("mode", images=images, steps=steps, snapshots=snapshots)
    if not learning_rate > 0:
        raise UserError(f"mode.learning_rate is {learning_rate}; it must be above 0")
    if space not in SPACES:
        raise UserError(f"mode.space is {space}; type mode.space={'|'.join(SPACES)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with user_errors():
        prior: Prior = instantiate(cfg.guidance)
        distillation: Distillation = instantiate(cfg.distillation, prior=prior)
    if images % prior.views:
        raise UserError(
            f"mode.images is {images}; {prior.name} predicts {prior.views} views around the object together: type "
            f"mode.images={prior.views}"
        )
    prior.to(device)
    distillation.to(device)
    prompting: Prompting = instantiate(cfg.prompting)
    table = prompting.encode(prior, str(cfg.prompt)).to(device)
    orbit: Orbit = instantiate(cfg.camera)
    if prior.views > 1:
        azimuths = [azimuths[0] + 360 / prior.views * view for view in range(prior.views)]
    azimuth = torch.tensor([float(azimuths[i % len(azimuths)]) for i in range(images)])
    conditioning = prompting.condition(table, orbit.view(azimuth, elevation, prior.resolution, prior.resolution))
    conditioning = conditioning.to(device)

    values = _start(prior, images, space, cfg.seed).to(device).requires_grad_()
    groups = [{"params": [values], "lr": learning_rate}, *distillation.parameter_groups()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    shown = {round(steps * (1 - i / max(snapshots - 1, 1))) for i in range(snapshots)}  # the last step in any case
    rows: list[Tensor] = []
    norms: list[float] = []
    for step in range(steps + 1):
        rgb = values if space == "pixels" else prior.decode(values)
        if step in shown:
            rows.append(rgb.detach().clamp(0, 1))
        if step == steps:
            break
        generator = step_generator(cfg.seed, step, Stream.TRAINING, 0)
        latents = values if space == "latents" else None
        out = distillation(rgb, conditioning, step / steps, generator, latents)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        norms.append(round(float(out.gradient_norm.mean()), 6))

    folder = Path(HydraConfig.get().runtime.output_dir)
    sheet = contact_sheet(list(enlarged(as_uint8(torch.cat(rows)))), images, gap=GAP)
    write_image(sheet, folder / "images.png")
    figures = {"prompt": str(cfg.prompt), "seed": cfg.seed, "diversity": diversity(rows[-1]), "gradient_norm": norms}
    with replacing(folder / "images.json") as draft:
        draft.write_text(json.dumps(figures, allow_nan=False) + "\n", encoding="utf-8")
    log.info("%s by %s, %s: %d steps, diversity %.3f", *_names(cfg, prior, distillation), steps, figures["diversity"])
    log.info("  %s", folder / "images.png")
    return folder


def diversity(images: Tensor) -> float:
    """Mean over all pairs of the root mean square difference of two images (N, 3, H, W); 0 for a single image."""
    flat = images.flatten(1).double()
    if len(flat) < 2:
        return 0.0
    return float(torch.nn.functional.pdist(flat).mean() / flat.shape[1] ** 0.5)


def _names(cfg: DictConfig, prior: Prior, distillation: Distillation) -> tuple[str, str, str]:
    return str(cfg.prompt), prior.name, type(distillation).__name__


def _start(prior: Prior, images: int, space: str, seed: int) -> Tensor:
    """Grey pictures with a little noise, (N, 3, r, r), or standard Gaussian latents (N, C, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.full((1, 3, prior.resolution, prior.resolution), 0.5, device=prior.alphas_cumprod.device)
    if space == "pixels":
        return 0.5 + 0.1 * torch.randn(images, *grey.shape[1:], generator=generator)
    return torch.randn(images, *prior.encode_image(grey).shape[1:], generator=generator)
