"""Training shown live in a notebook's cell: a picture of the scene and the curve of the gradient norm."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from dreamfusion.image import as_uint8
from dreamfusion.scene.shading import ALBEDO
from dreamfusion.system import DreamFusion


class LiveFigure(L.Callback):
    """Redraws one figure below the cell every `every` steps and at the end."""

    def __init__(self, every: int = 20, size: int = 128) -> None:
        """`size` is the side of the picture in pixels."""
        self.every, self.size = every, size
        self.steps: list[int] = []
        self.norms: list[float] = []
        self._shown: Any = None

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        self.steps.append(step)
        self.norms.append(float(trainer.callback_metrics["gradient_norm"]))
        self._show(self._draw(system, batch, trainer.max_steps))

    @torch.no_grad()
    def _draw(self, system: DreamFusion, cameras: Any, max_steps: int) -> Any:
        """The figure of this step; the picture is taken from one of the step's own cameras."""
        from matplotlib.figure import Figure

        view = cameras.one(0).resized(self.size, self.size)
        picture = as_uint8(system.scene.render(view, ALBEDO).rgb)[0]
        figure = Figure(figsize=(8, 3), layout="constrained")
        image, curve = figure.subplots(1, 2)
        image.imshow(picture)
        image.set_axis_off()
        image.set_title(f"step {self.steps[-1]} of {max_steps}")
        curve.plot(self.steps, self.norms)
        curve.set(xlabel="step", ylabel="gradient norm", xlim=(0, max_steps))
        return figure

    def _show(self, figure: Any) -> None:
        from IPython.display import display

        if self._shown is None:
            self._shown = display(figure, display_id=True)
        else:
            self._shown.update(figure)
