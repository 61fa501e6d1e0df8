"""The training step of DreamFusion as a LightningModule (Poole et al. 2022, sec. 3.2, steps 1 to 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from dreamfusion.distillation.sds import SDS
from dreamfusion.loss import Regularizer, total
from dreamfusion.prompting.table import Prompting, TextTable
from dreamfusion.randomness import Stream, step_generator, step_seed
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.renderer import Renderer
from dreamfusion.scene.shading import Shading
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Cameras, GuidanceOutput, RenderOutput


class DreamFusion(L.LightningModule):
    """A field that is rendered, judged by a frozen prior, and improved.

    All randomness of a step comes from (seed, step), so that a resumed run goes on exactly where it stopped.
    """

    def __init__(
        self,
        field: Field,
        background: nn.Module,
        renderer: Renderer,
        prompting: Prompting,
        distillation: SDS,
        text_table: TextTable,
        config: dict[str, Any],
        lighting: Lighting,
        regularizer: Regularizer,
        table_learning_rate: float,
        network_learning_rate: float,
        learning_rate_end: float,
        warmup_steps: int,
        views: int,
        size: ScheduleLike,
        seed: int,
    ) -> None:
        """`config` is the composed configuration as plain containers; it travels in the checkpoint.

        The learning rates fall linearly to `learning_rate_end` of themselves over the run, after a linear warm-up.

        Raises:
            ValueError: a step without a view or a pixel, or a learning rate that is none.
        """
        super().__init__()
        if views < 1:
            raise ValueError(f"system.views is {views}; a step needs at least 1 camera")
        if schedule(size).lowest < 1:
            raise ValueError(f"system.size is {size}; a view needs at least 1 pixel a side: type system.size=64")
        if min(table_learning_rate, network_learning_rate) <= 0 or learning_rate_end < 0:
            raise ValueError(
                f"system.table_learning_rate is {table_learning_rate}, system.network_learning_rate "
                f"{network_learning_rate}, system.learning_rate_end {learning_rate_end}; "
                "the first two are above 0, the last, a factor, is not below"
            )
        self.field, self.background, self.renderer = field, background, renderer
        self.prompting, self.distillation = prompting, distillation
        self.text_table, self.config = text_table, config
        self.lighting, self.regularizer, self.seed = lighting, regularizer, seed
        self.table_learning_rate, self.network_learning_rate = table_learning_rate, network_learning_rate
        self.learning_rate_end, self.warmup_steps = learning_rate_end, warmup_steps
        self.views, self.size = views, schedule(size)  # what the camera data draws: cameras a step, pixels a side
        self.last_guidance: GuidanceOutput | None = None  # for previews

    @property
    def progress(self) -> float:
        """The run's past fraction in [0, 1]."""
        return min(self.global_step / max(self.trainer.max_steps, 1), 1.0)

    def on_fit_start(self) -> None:
        self.distillation.to(self.device)
        self.text_table = self.text_table.to(self.device)

    def on_train_batch_start(self, batch: Cameras, batch_idx: int) -> None:
        # nerfacc draws from the global generator; a seed of the step's own keeps a resumed run exact.
        # The same on all ranks, which each keep a grid.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(step_seed(self.seed, self.global_step, Stream.OCCUPANCY))
            self.renderer.update(self.field, self.global_step)

    def training_step(self, cameras: Cameras, batch_idx: int) -> Tensor:
        progress = self.progress
        generator = step_generator(self.seed, self.global_step, Stream.TRAINING, self.global_rank)
        shading = self.lighting.draw(progress, generator)
        with_normal = self.regularizer.needs_normal(progress)
        render = self.renderer(cameras, self.field, self.background, shading, with_normal, generator)  # step 2
        seen = with_look(cameras, render, shading)
        conditioning = self.prompting.condition(self.text_table, seen)  # step 3: view-dependent text
        guidance = self.distillation(render.rgb, conditioning, progress, generator)  # step 3: Eq. 3
        terms = self.regularizer(render, progress)
        loss = guidance.loss + total(terms, guidance.loss)
        self.last_guidance = guidance
        self._report(render, guidance, terms)
        return loss

    def configure_optimizers(self) -> Any:
        tables = [p for n, p in self.field.named_parameters() if n == "table"]
        networks = [p for n, p in self.field.named_parameters() if n != "table"] + list(self.background.parameters())
        groups = [
            {"params": tables, "lr": self.table_learning_rate},
            {"params": networks, "lr": self.network_learning_rate},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
            past = min(step / max(self.trainer.max_steps, 1), 1.0)
            return warm * (1 + (self.learning_rate_end - 1) * past)

        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def _report(self, render: RenderOutput, guidance: GuidanceOutput, terms: dict[str, Tensor]) -> None:
        """To the callbacks, of which `Metrics` logs them; the surrogate loss is not among these: it means nothing."""
        values: dict[str, Any] = {
            "noise_level": guidance.noise_level.mean(),
            "samples_per_ray": len(render.samples) / render.directions.shape[0],
            **{f"loss/{name}": value for name, value in terms.items()},
        }
        shown = {"gradient_norm": guidance.gradient_norm.mean(), "opacity": render.opacity.mean()}
        self.log_dict(shown, prog_bar=True, logger=False)
        self.log_dict(values, logger=False)


def with_look(cameras: Cameras, render: RenderOutput, shading: Shading) -> Cameras:
    """The cameras and, for priors that are told it, the grey level behind the object and how it is lit."""
    grey = render.background.mean(dim=1) * 2 - 1
    return replace(cameras, look=torch.stack([grey, torch.full_like(grey, shading.kind)], dim=1))
