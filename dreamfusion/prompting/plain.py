"""The prompt as it stands, for every view: the ablation of `view_dependent.py`, or a prior told the camera itself.

Stages 2 and 10 of the flow.
"""

from __future__ import annotations

import torch

from dreamfusion.guidance.prior import Prior
from dreamfusion.prompting.table import TextTable, choose, encode_table
from dreamfusion.types import Cameras, Conditioning


class PlainPrompting:
    """ "a cat" -> "a cat"."""

    def __init__(self, negative: str) -> None:
        """`negative` is what guidance pushes away from; "" is plain classifier-free guidance."""
        self.negative = str(negative)  # 3 is a text as well

    def texts(self, prompt: str) -> list[str]:
        """The one text."""
        return [prompt.strip()]

    def encode(self, prior: Prior, prompt: str) -> TextTable:
        """Encode the prompt and the negative; tells the user if the prior does not know the prompt."""
        prior.warn_if_unknown(prompt)
        return encode_table(prior, self.texts(prompt), self.negative)

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """The same text for each view."""
        return choose(table, torch.zeros(len(cameras), dtype=torch.int64), cameras)
