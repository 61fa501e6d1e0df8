"""The training step of DreamFusion as a LightningModule (Poole et al. 2022, Sec. 3.2, steps 1 to 4)."""

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dreamfusion.distillation.base import Distillation
from dreamfusion.guidance.prior import PictureConditioned
from dreamfusion.loss import Regularizer, total
from dreamfusion.optimization import Optimization
from dreamfusion.prompting.table import Prompting, TextTable
from dreamfusion.randomness import Stream, step_generator, step_seed
from dreamfusion.reference.view import Reference
from dreamfusion.scene.base import Scene
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.shading import Shading
from dreamfusion.types import Cameras, Conditioning, GuidanceOutput, RenderOutput


class DreamFusion(L.LightningModule):
    """Optimise a scene by score distillation from a frozen prior.

    All randomness of a step derives from (seed, step), so a resumed run is bit-equal to an uninterrupted one.
    """

    def __init__(
        self,
        scene: Scene,
        prompting: Prompting,
        distillation: Distillation,
        text_table: TextTable,
        optimization: Optimization,
        config: dict[str, Any],
        lighting: Lighting,
        regularizer: Regularizer,
        reference: Reference | None,
        seed: int,
    ) -> None:
        """`config` is the composed configuration as plain containers; it is saved in the checkpoint. `reference` is the
        view of a picture, None without one.

        Raises:
            ValueError: a regulariser that does not exist for this scene.
        """
        super().__init__()
        self.scene, self.prompting, self.distillation = scene, prompting, distillation
        self.text_table, self.optimization, self.config = text_table, optimization, config
        self.lighting, self.regularizer, self.reference, self.seed = lighting, regularizer, reference, seed
        regularizer.terms(scene)
        self.last_guidance: GuidanceOutput | None = None  # for previews and metrics
        self.last_opacity: Tensor | None = None  # (B, 1, H, W) of the same views
        self.last_background: Tensor | None = None  # (B, 3) mean colour, of the same views
        self.last_figures: dict[str, Tensor] = {}  # scalars of the step, by name

    @property
    def progress(self) -> float:
        """Fraction of the steps that are done, in [0, 1]."""
        return min(self.global_step / max(self.trainer.max_steps, 1), 1.0)

    def on_fit_start(self) -> None:
        prior = self.distillation.prior.to(self.device)
        if isinstance(prior, PictureConditioned) and self.reference is not None:
            prior.look_at(self.reference.for_prior(), self.reference.camera)
        self.text_table = self.text_table.to(self.device)

    def on_train_batch_start(self, batch: Cameras, batch_idx: int) -> None:
        # nerfacc draws from the global generator; a seed a step makes resumed runs exact. All ranks use the same seed,
        # so that their occupancy grids stay equal. Seeding does not wait for a GPU.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(step_seed(self.seed, self.global_step, Stream.OCCUPANCY))
            self.scene.before_step(self.global_step)

    def training_step(self, cameras: Cameras, batch_idx: int) -> Tensor:
        progress = self.progress
        drawn = self.seed, self.global_step, Stream.TRAINING, self.global_rank
        host = step_generator(*drawn)  # for what Python decides; all other numbers are drawn on the device
        generator = host if self.device.type == "cpu" else step_generator(*drawn, self.device)
        shading = self.lighting.draw(progress, host)
        with_normal = self.regularizer.needs_normal(self.scene, progress)
        render = self.scene.render(cameras, shading, with_normal, generator)  # step 2
        conditioning = with_appearance(self.prompting.condition(self.text_table, cameras), render, shading)
        guidance = self.distillation(render.rgb, conditioning, progress, generator)  # step 3: Eq. 3
        terms = self.regularizer(self.scene, render, progress)
        if self.reference is not None and self.reference.due(self.global_step):
            terms |= self.reference(self.scene, progress)
        loss = guidance.loss + total(terms, guidance.loss)
        self.last_guidance = guidance
        self.last_opacity, self.last_background = render.opacity.detach(), render.background.detach()
        self._report(render, guidance, terms)
        return loss

    def on_after_backward(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.scene.after_backward(self.global_step, self.progress, optimizer)

    def configure_optimizers(self) -> Any:
        groups, others = self.scene.parameter_groups(), self.distillation.parameter_groups()
        return self.optimization(groups, others, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def _report(self, render: RenderOutput, guidance: GuidanceOutput, terms: dict[str, Tensor]) -> None:
        """Pass statistics to the callbacks; `Metrics` logs them. The value of the surrogate loss is meaningless."""
        values: dict[str, Any] = {
            "gradient_norm": guidance.gradient_norm.mean(),
            "opacity": render.opacity.mean(),
            "noise_level": guidance.noise_level.mean(),
            **self.scene.figures(render),
            **guidance.figures,
            **{f"loss/{name}": value for name, value in (terms | dict(guidance.losses)).items()},
        }
        # Lightning would copy a number to the device, and with `prog_bar` read each value in every step: both wait.
        tensors = {n: v if isinstance(v, Tensor) else guidance.loss.new_full((), v) for n, v in values.items()}
        self.last_figures = {name: value.detach().float() for name, value in tensors.items()}
        self.log_dict(tensors, logger=False)


def with_appearance(conditioning: Conditioning, render: RenderOutput, shading: Shading) -> Conditioning:
    """Add the background's grey level and the shading code, for priors that are conditioned on them."""
    grey = render.background.mean(dim=1) * 2 - 1
    return replace(conditioning, appearance=torch.stack([grey, torch.full_like(grey, shading.code)], dim=1))
