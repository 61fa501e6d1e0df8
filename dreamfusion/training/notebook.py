"""Training shown live in a notebook's cell: a picture of the scene and the curve of the gradient norm."""

from io import BytesIO
from typing import Any

import lightning as L
import torch

from dreamfusion.image import as_uint8
from dreamfusion.scene.picture import render_views
from dreamfusion.system import DreamFusion
from dreamfusion.types import Cameras


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
    def _draw(self, system: DreamFusion, cameras: Cameras, max_steps: int) -> bytes:
        """The figure of this step as PNG; the picture is taken from one of the step's own cameras."""
        from matplotlib.figure import Figure

        view = cameras.one(0).resized(self.size, self.size)
        figure = Figure(figsize=(8, 3), layout="constrained")
        image, curve = figure.subplots(1, 2)
        image.imshow(as_uint8(render_views(system.scene, view).rgb)[0])
        image.set_axis_off()
        image.set_title(f"step {self.steps[-1]} of {max_steps}")
        curve.plot(self.steps, self.norms)
        curve.set(xlabel="step", ylabel="gradient norm", xlim=(0, max_steps))
        png = BytesIO()
        figure.savefig(png)
        return png.getvalue()

    def _show(self, png: bytes) -> None:
        from IPython.display import Image, display

        if self._shown is None:
            self._shown = display(Image(png), display_id=True)
        else:
            self._shown.update(Image(png))
