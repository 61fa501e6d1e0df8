"""The unchanged prompt for every view: the ablation of `view_dependent.py`, or for a camera-conditioned prior.

Stages 2 and 10 of the flow.
"""

import torch
from torch import Tensor

from dreamfusion.prompting.table import Prompting
from dreamfusion.types import Cameras


class PlainPrompting(Prompting):
    """ "a cat" -> "a cat"."""

    def __init__(self, negative: str) -> None:
        """`negative`: see `Prompting`; one text."""
        super().__init__(negative)

    def texts(self, prompt: str) -> list[str]:
        """The prompt alone."""
        return [prompt.strip()]

    def view(self, cameras: Cameras) -> Tensor:
        """The same text for all B views."""
        return torch.zeros_like(cameras.azimuth, dtype=torch.int64)
