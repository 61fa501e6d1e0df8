"""`mode=sample`: sample pictures of a prompt from the prior, from all sides, without 3D."""

import logging
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from dreamfusion.camera.orbit import Orbit, around
from dreamfusion.error import check_positive
from dreamfusion.guidance.prior import Prior
from dreamfusion.guidance.sampling import sample_images, start_noise
from dreamfusion.image import as_uint8, contact_sheet, enlarged, write_image
from dreamfusion.prompting.table import Prompting
from dreamfusion.runs.check import check_prompt

log = logging.getLogger(__name__)
GAP = 4  # pixels between pictures


def run(
    cfg: DictConfig,
    azimuths: int,
    elevation: float,
    samples: int,
    steps: int,
    guidance_scale: float | None,
    batch_size: int,
) -> Path:
    """Write samples.png into the run's folder; returns its path."""
    check_prompt(cfg.prompt)
    check_positive("mode", azimuths=azimuths, samples=samples, steps=steps, batch_size=batch_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior: Prior = instantiate(cfg.guidance).to(device)
    scale = prior.sample_scale if guidance_scale is None else guidance_scale
    pictures = sample_views(
        prior,
        instantiate(cfg.prompting),
        instantiate(cfg.camera),
        str(cfg.prompt),
        azimuths=around(azimuths, prior.views),
        elevation=elevation,
        samples=samples,
        steps=steps,
        scale=scale,
        batch_size=batch_size,
        seed=cfg.seed,
    )
    order = around(azimuths, prior.views).argsort()
    pictures = pictures[(np.arange(samples)[:, None] * azimuths + order.numpy()).flatten()]
    sheet = contact_sheet(list(enlarged(pictures)), azimuths, gap=GAP)
    path = Path(HydraConfig.get().runtime.output_dir) / "samples.png"
    write_image(sheet, path)
    turns = ", ".join(f"{360 / azimuths * i:.0f}" for i in range(azimuths))
    layout = f"columns: azimuth {turns}; rows: {samples} samples"
    log.info("%s by %s, guidance scale %g; %s\n  %s", cfg.prompt, prior.name, scale, layout, path)
    return path


def sample_views(
    prior: Prior,
    prompting: Prompting,
    orbit: Orbit,
    prompt: str,
    azimuths: torch.Tensor,
    elevation: float,
    samples: int,
    steps: int,
    scale: float,
    batch_size: int,
    seed: int,
) -> np.ndarray:
    """Sample `samples` pictures of each azimuth (A,), sample by sample: (samples * A, r, r, 3) uint8.

    All views of a sample start from the same noise, so that only the view differs, but for priors that couple views:
    those were trained with independent noise. Their views stay together in a batch. `batch_size` does not change the
    pictures.
    """
    device = prior.alphas_cumprod.device
    table = prompting.encode(prior, prompt).to(device)
    shared = len(azimuths) if prior.views == 1 else 1
    noise = start_noise(prior, samples * len(azimuths) // shared, torch.Generator().manual_seed(seed))
    noise = noise.repeat_interleave(shared, dim=0)
    batch_size = max(batch_size // prior.views, 1) * prior.views
    pictures = []
    for azimuth, start in zip(azimuths.repeat(samples).split(batch_size), noise.split(batch_size), strict=True):
        cameras = orbit.view(azimuth, elevation, prior.resolution, prior.resolution).to(device)
        pictures.append(as_uint8(sample_images(prior, prompting.condition(table, cameras), start, scale, steps)))
    return np.concatenate(pictures)
