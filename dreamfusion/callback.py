"""What a run does beside training: previews, and ending cleanly when it is asked to stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dreamfusion.camera.orbit import Orbit
from dreamfusion.export.video import as_uint8, contact_sheet, write_image
from dreamfusion.renderer.shading import LAMBERTIAN
from dreamfusion.system import DreamFusion

ROW = ("colour", "lit", "normal", "opacity")


class Previews(L.Callback):
    """Every `every` steps a sheet: four sides in columns; colour, lit, normal, opacity and the prior's view in rows."""

    def __init__(self, orbit: Orbit, folder: Path, every: int, size: int) -> None:
        self.orbit, self.folder, self.every, self.size = orbit, folder, every, size

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and self.every > 0 and trainer.global_step % self.every == 0:
            self.write(system, trainer.global_step)

    @torch.no_grad()
    def write(self, system: DreamFusion, step: int) -> None:
        """One sheet of the scene as it stands."""
        azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0])
        cameras = self.orbit.view(azimuth, 15.0, self.size, self.size).to(system.device)
        plain = system.renderer(cameras, system.field, system.background, with_normal=True)
        lit = system.renderer(cameras, system.field, system.background, LAMBERTIAN)
        rows = [plain.rgb, lit.rgb, normal_colors(plain.normal, plain.opacity), plain.opacity.expand_as(plain.rgb)]
        if system.last_guidance is not None:
            rows.append(self._prior_view(system, len(azimuth)))
        sheet = contact_sheet([image for row in rows for image in as_uint8(row)], columns=len(azimuth))
        write_image(sheet, self.folder / f"{step:06d}.png")

    def _prior_view(self, system: DreamFusion, columns: int) -> Tensor:
        """The prior's clean estimate of the last training views, at the sheet's size."""
        assert system.last_guidance is not None
        seen = system.distillation.prior.decode(system.last_guidance.denoised)[:columns]
        seen = torch.nn.functional.interpolate(seen.float().clamp(0, 1), (self.size, self.size), mode="nearest")
        blank = torch.ones(columns - len(seen), 3, self.size, self.size, device=seen.device)
        return torch.cat([seen, blank])


class StopOnInterrupt(L.Callback):
    """The first Ctrl-C ends training after the current step; the second one ends the program."""

    def __init__(self) -> None:
        self.interrupted = False
        self._trainer: L.Trainer | None = None
        self._before: Any = None

    def on_fit_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self._trainer = trainer
        self._before = signal.signal(signal.SIGINT, self._stop)

    def teardown(self, trainer: L.Trainer, system: L.LightningModule, stage: str) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self._trainer is not None:
            self._trainer.should_stop = True


def normal_colors(normal: Tensor, opacity: Tensor) -> Tensor:
    """Composited normals (B, 3, H, W) as colours, white where nothing is."""
    unit = torch.nn.functional.normalize(normal, dim=1)
    return (unit * 0.5 + 0.5) * opacity + (1 - opacity)
