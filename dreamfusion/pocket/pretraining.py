"""`mode=pretrain`: training of the pocket prior as a LightningModule.

Letters: x_t = alpha x0 + sigma noise (cosine schedule); the network predicts x0; SNR = alpha^2 / sigma^2.
Loss: min(SNR + 1, 6) / 2 * |x0_hat - x0|^2, the truncated weighting of the v objective (Salimans & Ho 2022, sec. 4;
Hang et al. 2023 for the cap).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamfusion.export.video import contact_sheet, write_image
from dreamfusion.guidance.prior import alpha_sigma
from dreamfusion.guidance.sampling import ddim_sample
from dreamfusion.pocket.batches import Batch
from dreamfusion.pocket.model import WHITE, PocketModel, camera_features, with_look
from dreamfusion.pocket.text import TextEncoder
from dreamfusion.types import TextEmbedding

log = logging.getLogger(__name__)
Describe = Callable[[Path, int, dict[int, float]], None]
NOISE_LEVELS = (200, 450, 700, 900)  # timesteps of 1000 at which validation is reported


class PocketPretraining(L.LightningModule):
    """The denoiser, its loss, its validation by noise level and its sample sheet."""

    def __init__(
        self,
        unet: dict[str, Any],
        unshuffle: int,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        high_noise: float,
        text_dropout: float,
        camera_dropout: float,
        sheet_prompts: Sequence[str],
        sheet_scale: float,
        seed: int = 0,
    ) -> None:
        """`high_noise` h draws timesteps with density (1 + h) u^h over u = t / T: 0 is uniform, 1 leans to noise."""
        super().__init__()
        self.model = PocketModel.create(dict(unet), unshuffle)
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.high_noise, self.text_dropout, self.camera_dropout = high_noise, text_dropout, camera_dropout
        self.sheet_prompts, self.sheet_scale, self.seed = list(sheet_prompts), sheet_scale, seed
        self.captions: CaptionCache | None = None  # frozen, so neither a sub-module nor in the checkpoint
        self.folder = Path()
        self.describe: Describe | None = None

    def attach(self, encoder: TextEncoder, folder: Path, describe: Describe | None = None) -> None:
        """Give what stays out of the checkpoint: the frozen text encoder, the folder for sheets and weights, and what
        writes the model card into the folder of weights, given it, the step and the validation error by timestep.
        """
        self.captions, self.folder, self.describe = CaptionCache(encoder), folder, describe

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = torch.Generator().manual_seed(hash((self.seed, self.global_step)) % 2**63)
        b = len(batch.captions)
        uniform = torch.rand(b, generator=draws) ** (1 / (1 + self.high_noise))
        timestep = (uniform * self.model.alphas_cumprod.shape[0]).long()
        noise = torch.randn(batch.images.shape, generator=draws)
        no_text = torch.rand(b, generator=draws) < self.text_dropout
        no_camera = no_text | (torch.rand(b, generator=draws) < self.camera_dropout)
        captions = ["" if drop else c for c, drop in zip(batch.captions, no_text.tolist(), strict=True)]
        camera = with_look(batch.camera, batch.camera[:, -2:], ~no_camera.to(self.device))
        text, timestep = self._encode(captions), timestep.to(self.device)
        error = denoising_error(self.model, batch.images, text, camera, timestep, noise.to(self.device))
        alphas_cumprod = self.model.alphas_cumprod[timestep]
        snr = alphas_cumprod / (1 - alphas_cumprod)
        loss = (error * (snr + 1).clamp(max=6) / 2).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss at fixed noise levels on held-out views, a sample sheet, and the weights as they stand (averaged)."""
        errors = errors_by_level(self.model, self._encode(batch.captions), batch)
        for level, error in errors.items():
            self.log(f"validation/mse_t{level}", error.mean(), prog_bar=level == 900, batch_size=len(error))
        if self.trainer.sanity_checking:
            return
        sheet = self.sample_sheet()
        write_image(sheet, self.folder / "samples" / f"{self.global_step:07d}.png")
        self.save_weights()
        write_image(sheet, self.folder / "weights" / "samples.png")
        if self.describe is not None:
            losses = {level: float(error.mean()) for level, error in errors.items()}
            self.describe(self.folder / "weights", self.global_step, losses)

    def save_weights(self) -> None:
        """The folder that `guidance.weights` takes; each of its files is replaced by a whole one."""
        draft = self.folder / ".weights"
        self.model.save(draft)
        for file in [path for path in draft.rglob("*") if path.is_file()]:
            target = self.folder / "weights" / file.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(draft)

    @torch.no_grad()
    def sample_sheet(self, steps: int = 16) -> Any:
        """Each prompt from the front, the right, the back and the left: a picture (H, W, 3) uint8."""
        azimuths = torch.tensor([0.0, 90.0, 180.0, 270.0])
        rows = []
        for i in range(0, len(self.sheet_prompts), 4):
            prompts = [p for p in self.sheet_prompts[i : i + 4] for _ in azimuths]
            count = len(prompts)
            azimuth = azimuths.repeat(count // 4)
            camera = camera_features(azimuth, torch.full_like(azimuth, 15.0), torch.full_like(azimuth, 3.0))
            start = torch.randn((count, 3, 64, 64), generator=torch.Generator().manual_seed(i))
            rows.append(self._sample(prompts, camera.to(self.device), start.to(self.device), steps))
        images = (torch.cat(rows) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return contact_sheet(list((images * 255).round().byte().cpu().numpy()), columns=16)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning's own clipping refuses fused optimizers on the CPU, where nothing has to be unscaled.
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.weight_decay,
            fused=True,
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

    def _sample(self, prompts: list[str], camera: Tensor, start: Tensor, steps: int) -> Tensor:
        text, null = self._encode(prompts), self._encode([""] * len(prompts))
        states, mask = torch.cat([text.states, null.states]), torch.cat([text.mask, null.mask])
        look = camera.new_tensor(WHITE).expand(len(camera), 2)
        cameras = torch.cat([with_look(camera, look), with_look(torch.zeros_like(camera), look)])

        def guided(noisy: Tensor, timestep: Tensor) -> Tensor:
            with _fast_attention():
                both = self.model(noisy.repeat(2, 1, 1, 1), timestep.repeat(2), states, mask, cameras).float()
            with_text, without = both.chunk(2)
            return without + self.sheet_scale * (with_text - without)

        return ddim_sample(guided, start, self.model.alphas_cumprod, steps, clip=True)

    def _encode(self, captions: Sequence[str]) -> TextEmbedding:
        if self.captions is None:
            raise RuntimeError("PocketPretraining.attach(encoder, folder) must be called before training")
        return self.captions(captions).to(self.device)


@torch.no_grad()
def errors_by_level(model: PocketModel, text: TextEmbedding, batch: Batch) -> dict[int, Tensor]:
    """Squared error (B,) of the clean estimate at each of NOISE_LEVELS, under the same noise for every network."""
    errors = {}
    for level in NOISE_LEVELS:
        noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(level)).to(batch.images.device)
        timestep = torch.full((len(noise),), level, device=noise.device)
        parts = torch.arange(len(noise), device=noise.device).split(32)
        errors[level] = torch.cat(
            [denoising_error(model, batch.images[i], text[i], batch.camera[i], timestep[i], noise[i]) for i in parts]
        )
    return errors


def denoising_error(
    model: PocketModel, clean: Tensor, text: TextEmbedding, camera: Tensor, timestep: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the clean estimate of each image, (B,)."""
    alpha, sigma = alpha_sigma(model.alphas_cumprod[timestep])
    noisy = alpha * clean + sigma * noise
    with _fast_attention():
        predicted = model(noisy, timestep, text.states, text.mask, camera)
    return (predicted.float() - clean).square().mean(dim=(1, 2, 3))


class CaptionCache:
    """Encodes every distinct caption once; keeps the states in fp16."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, captions: Sequence[str]) -> TextEmbedding:
        new = sorted({c for c in captions if c not in self._known})
        with torch.autocast("cpu", enabled=False):  # it knows no fp16 on CPUs
            if new:
                encoded = self._encoder(new)
                for text, states, mask in zip(new, encoded.states.half(), encoded.mask, strict=True):
                    self._known[text] = (states.clone(), mask.clone())
            states, masks = zip(*(self._known[c] for c in captions), strict=True)
            return TextEmbedding(torch.stack(states).float(), torch.stack(masks))


def _fast_attention() -> Any:
    """Plain matrix products on CPUs: the fused attention's bf16 backward takes 43 % of a step there."""
    on_cpu = torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
