"""Training of the pocket prior as a LightningModule (`mode=pretrain`).

Letters: x_t = alpha x0 + sigma noise (cosine schedule); the network predicts x0; SNR = alpha^2 / sigma^2.
Loss of the UNet: min(SNR + 1, 6) / 2 * |x0_hat - x0|^2, the truncated weighting of the v objective (Salimans & Ho
2022, sec. 4; Hang et al. 2023 for the cap). Loss of the feature volume: squared error of the proxy render's albedo,
opacity and normals against the stored render.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_sample
from dreamfusion.image import contact_sheet, write_image
from dreamfusion.pocket.data.batches import Batch
from dreamfusion.pocket.model.denoiser import RESOLUTION, WHITE, PocketModel, camera_features, with_appearance
from dreamfusion.pocket.model.proxy_render import ProxyRender
from dreamfusion.pocket.model.text import CaptionCache, TextEncoder
from dreamfusion.pocket.model.words import with_article
from dreamfusion.pocket.training.errors import denoising_error, errors_by_level, fast_attention, proxy_error
from dreamfusion.pocket.training.muon import MuonAdamW
from dreamfusion.types import TextEmbedding

log = logging.getLogger(__name__)
Seen = dict[str, float]  # see `PocketPretraining.seen`
Describe = Callable[[Path, Seen, dict[int, float]], None]
SHEET = 16  # names on a sample sheet without prompts of its own
NORMAL_WEIGHT = 0.25  # of the normals' loss, relative to that of albedo and opacity


@dataclass(frozen=True)
class Start:
    """The weights that a training began from, as far as a resumed one has to know; by default there are none."""

    credits: str = ""  # their ATTRIBUTION.md
    decoder: bool = False  # whether they have a decoder of volumes: it does not repeat its voxels
    folder: str | None = None  # absolute; "": random weights; None: not known, in checkpoints of older code


class PocketPretraining(L.LightningModule):
    """Denoiser, losses, validation by noise level, and sample sheets."""

    def __init__(
        self,
        subjects: dict[str, str],
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
        proxy_steps: int = 0,
        coarse_steps: int = 0,
        proxy_learning_rate: float = 2e-3,
        proxy_weight: float = 1.0,
        code_learning_rate: float = 5.0,
        proxy_widths: dict[str, int] | None = None,
        cooldown: tuple[int, int] | None = None,
        muon: bool = False,
    ) -> None:
        """Create the network and store the training settings.

        Args:
            subjects: the models that get a code, as in `RenderBatches.subjects`.
            unet, unshuffle, proxy_widths: see `PocketModel.create`.
            code_learning_rate: of the models' codes, as a multiple of `learning_rate`: each code is sampled rarely.
            proxy_steps: number of first steps that train the feature volume alone, at `proxy_learning_rate` and several
                times as many images per second. Later its loss is added to the UNet's, times `proxy_weight`.
            coarse_steps: number of first steps that decode volumes with half the voxels a side, several times as fast;
                `mode=pretrain` draws images of RESOLUTION alone for them. None after a start with a decoder.
            cooldown: (begin, end), steps between which the learning rate falls to zero.
            sheet_prompts: of the sample sheets, in rows of four; empty: the first SHEET names.
            muon: whether matrices and kernels are trained with Muon instead of AdamW, see `MuonAdamW`.
            high_noise: h; timesteps have the density (1 + h) u^h over u = t / T: 0 is uniform, 1 favours noise.
        """
        super().__init__()
        self.model = PocketModel.create(dict(unet), subjects, unshuffle, **(proxy_widths or {}))
        self.code_learning_rate = code_learning_rate
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.high_noise, self.text_dropout, self.camera_dropout = high_noise, text_dropout, camera_dropout
        self.proxy_steps, self.proxy_learning_rate = proxy_steps, proxy_learning_rate
        self.muon, self._coarse_steps, self.start = muon, coarse_steps, Start()
        self.proxy_weight, self.cooldown = proxy_weight, cooldown
        names = list(dict.fromkeys(subjects.values()))[:SHEET]
        self.sheet_prompts = list(sheet_prompts) or [with_article(name) for name in names]
        self.sheet_scale, self.seed = sheet_scale, seed
        self.captions: CaptionCache | None = None  # frozen: neither a submodule nor in the checkpoint
        self.folder = Path()
        self.describe: Describe | None = None
        # Training images of the whole network and of the feature volume alone, and hours of training, each including
        # `mode.start`. No "hours" if those of the start weights are unknown.
        self.seen: Seen = {"images": 0, "proxy_images": 0, "hours": 0.0}
        self._began = 0.0

    def attach(self, encoder: TextEncoder, folder: Path, describe: Describe | None = None) -> None:
        """Set the state outside the checkpoint; `describe(weights folder, seen, error by timestep)` writes the card."""
        self.captions, self.folder, self.describe = CaptionCache(encoder), folder, describe

    @property
    def coarse_steps(self) -> int:
        return 0 if self.start.decoder else self._coarse_steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        text = self._encode(batch.proxy_captions)
        size = batch.images.shape[-1]
        self.model.feature_volume.halve = self.global_step < self.coarse_steps
        proxy = self.model.render_proxy(text.states, text.mask, batch.camera, batch.subject, size=size)
        rgba, normal = batch.proxy_targets.split([4, 3], dim=1)
        proxy_loss, normal_loss = proxy_error(proxy, rgba).mean(), (proxy.normal - normal).square().mean()
        self.log("proxy_loss", proxy_loss, prog_bar=True)
        loss = proxy_loss + NORMAL_WEIGHT * normal_loss
        alone = self.global_step < self.proxy_steps
        self.seen["proxy_images" if alone else "images"] += len(batch.captions)
        if alone:
            return loss
        denoising_loss = self._denoising_loss(batch, proxy)
        self.log("loss", denoising_loss, prog_bar=True)
        return denoising_loss + self.proxy_weight * loss

    def _denoising_loss(self, batch: Batch, proxy: ProxyRender) -> Tensor:
        seed, images = hash((self.seed, self.global_step)) % 2**63, batch.images
        draws = torch.Generator().manual_seed(seed)
        on_device = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=on_device, device=images.device)
        b = len(batch.captions)
        uniform = torch.rand(b, generator=draws) ** (1 / (1 + self.high_noise))
        timestep = (uniform * self.model.alphas_cumprod.shape[0]).long()
        no_text = torch.rand(b, generator=draws) < self.text_dropout
        no_camera = no_text | (torch.rand(b, generator=draws) < self.camera_dropout)
        captions = ["" if drop else c for c, drop in zip(batch.captions, no_text.tolist(), strict=True)]
        camera = with_appearance(batch.camera, batch.camera[:, -2:], ~no_camera.to(self.device))
        text, timestep = self._encode(captions), timestep.to(self.device)
        error = denoising_error(self.model, images, text, camera, timestep, noise, proxy)
        alphas_cumprod = self.model.alphas_cumprod[timestep]
        snr = alphas_cumprod / (1 - alphas_cumprod)
        return (error * (snr + 1).clamp(max=6) / 2).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on held-out views by noise level; write sample sheets and the averaged weights.

        Batch 0 has RESOLUTION; the names of another size's losses end with that size.
        """
        text = self._encode(batch.captions)
        errors, proxy = errors_by_level(self.model, text, batch)
        size = "" if batch.images.shape[-1] == RESOLUTION else f"_{batch.images.shape[-1]}"
        self.log(f"validation/mse_proxy{size}", proxy.mean(), prog_bar=True, batch_size=len(proxy))
        for level, error in errors.items():
            self.log(f"validation/mse_t{level}{size}", error.mean(), prog_bar=level == 900, batch_size=len(error))
        if self.trainer.sanity_checking or batch_idx > 0:
            return
        write_image(self.proxy_sheet(), self.folder / "samples" / f"{self.global_step:07d}_proxy.png")
        sheet = self.sample_sheet()
        write_image(sheet, self.folder / "samples" / f"{self.global_step:07d}.png")
        self.save_weights()
        write_image(sheet, self.folder / "weights" / "samples.png")
        if self.describe is not None:
            losses = {level: float(error.mean()) for level, error in errors.items()}
            self.describe(self.folder / "weights", self.seen, losses)

    def on_fit_start(self) -> None:
        if self.captions is not None:
            self.captions.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if "hours" in self.seen:
            self.seen["hours"] += (time.perf_counter() - self._began) / 3600

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen"] = dict(self.seen)
        checkpoint["start"] = asdict(self.start)
        checkpoint["subjects"] = list(self.model.feature_volume.config.subjects)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore `seen`; rename the keys of checkpoints in which the feature volume is called "sketch".

        The rates and weight decay of the optimizer are those of the settings, which may have changed.
        """
        (optimizer,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        fresh, factor = self.configure_optimizers()["optimizer"], self._learning_rate_factor(schedule["last_epoch"])
        for stored, group in zip(optimizer["param_groups"], fresh.param_groups, strict=True):
            stored |= {key: group[key] for key in ("initial_lr", "weight_decay")}
            stored["lr"] = group["initial_lr"] * factor
        schedule["base_lrs"] = [group["initial_lr"] for group in fresh.param_groups]
        schedule["_last_lr"] = [group["lr"] for group in optimizer["param_groups"]]
        self.seen = current_keys(checkpoint["seen"])
        for weights in {"state_dict", "current_model_state"} & checkpoint.keys():  # averaged, and the optimizer's
            state = checkpoint[weights]
            checkpoint[weights] = {k.replace("model.sketch.", "model.feature_volume."): v for k, v in state.items()}

    def save_weights(self) -> None:
        """Write the folder for `guidance.weights`; each file is replaced atomically."""
        draft = self.folder / ".weights"
        self.model.save(draft)
        for file in [path for path in draft.rglob("*") if path.is_file()]:
            target = self.folder / "weights" / file.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(draft)

    @torch.no_grad()
    def sample_sheet(self, steps: int = 16) -> Any:
        """Samples of each prompt from front, right, back and left: an image (H, W, 3) uint8."""
        images = []
        for i, (prompts, camera) in enumerate(self._sheet_rows()):
            start = torch.randn((len(prompts), 3, 64, 64), generator=torch.Generator().manual_seed(4 * i))
            images.append(self._sample(prompts, camera, start.to(self.device), steps))
        return _sheet(torch.cat(images))

    @torch.no_grad()
    def proxy_sheet(self) -> Any:
        """Proxy renders over white in the layout of `sample_sheet`."""
        renders = []
        for prompts, camera in self._sheet_rows():
            text = self._encode(prompts)
            proxy = self.model.render_proxy(text.states, text.mask, camera)
            renders.append(proxy.over(torch.ones_like(camera[:, 0])).float())
        return _sheet(torch.cat(renders))

    def _sheet_rows(self) -> Iterator[tuple[list[str], Tensor]]:
        """Yield four prompts at a time from four sides each: 16 prompts and cameras (16, 12)."""
        azimuths = torch.tensor([0.0, 90.0, 180.0, 270.0])
        for i in range(0, len(self.sheet_prompts), 4):
            prompts = [p for p in self.sheet_prompts[i : i + 4] for _ in azimuths]
            azimuth = azimuths.repeat(len(prompts) // 4)
            camera = camera_features(azimuth, torch.full_like(azimuth, 15.0), torch.full_like(azimuth, 3.0))
            yield prompts, camera.to(self.device)

    def configure_optimizers(self) -> Any:
        codes = self.model.feature_volume.codes
        others = [p for p in self.model.parameters() if p.requires_grad and p is not codes]
        matrices = [p for p in others if self.muon and p.ndim > 1]  # neither biases nor scales
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if not self.muon or p.ndim <= 1]},
            {"params": [codes], "weight_decay": 0.0, "lr": self.learning_rate * self.code_learning_rate},
        ]
        groups += [{"params": matrices, "muon": True}] if matrices else []
        optimizer = MuonAdamW(
            groups, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, at the start and when the UNet joins; then constant; then linear decay to zero."""
        if step < self.proxy_steps:
            since, factor = step, self.proxy_learning_rate / self.learning_rate
        else:
            since, factor = step - self.proxy_steps, 1.0
        factor *= min(1.0, (since + 1) / self.warmup_steps)
        if self.cooldown is not None:
            begin, end = self.cooldown
            factor *= min(1.0, max(0.0, (end - step) / (end - begin)))
        return factor

    def _sample(self, prompts: list[str], camera: Tensor, start: Tensor, steps: int) -> Tensor:
        text, null = self._encode(prompts), self._encode([""] * len(prompts))
        states, mask = torch.cat([text.states, null.states]), torch.cat([text.mask, null.mask])
        white = camera.new_tensor(WHITE).expand(len(camera), 2)
        cameras = torch.cat([with_appearance(camera, white), with_appearance(torch.zeros_like(camera), white)])

        def guided(noisy: Tensor, timestep: Tensor) -> Tensor:
            with fast_attention():
                both = self.model(noisy.repeat(2, 1, 1, 1), timestep.repeat(2), states, mask, cameras).float()
            with_text, without = both.chunk(2)
            return without + self.sheet_scale * (with_text - without)

        return ddim_sample(guided, start, self.model.alphas_cumprod, steps, clip=True)

    def _encode(self, captions: Sequence[str]) -> TextEmbedding:
        if self.captions is None:
            raise RuntimeError("PocketPretraining.attach(encoder, folder) must be called before training")
        return self.captions(captions).to(self.device)


def current_keys(seen: Mapping[str, float]) -> Seen:
    """`seen` with the keys of today, from a checkpoint or training.json that may count "sketch_images"."""
    return {key.replace("sketch_", "proxy_"): value for key, value in seen.items()}


def _sheet(images: Tensor) -> Any:
    """(N, 3, r, r) in [-1, 1] -> contact sheet (H, W, 3) uint8 of 16 columns."""
    pixels = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return contact_sheet(list((pixels * 255).round().byte().cpu().numpy()), columns=16)
