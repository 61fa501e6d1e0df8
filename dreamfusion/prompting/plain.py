"""The unchanged prompt for every view: the ablation of `view_dependent.py`, or for a camera-conditioned prior.

Stages 2 and 10 of the flow.
"""

import torch

from dreamfusion.guidance.prior import Prior
from dreamfusion.prompting.table import TextTable, encode_texts, select_texts
from dreamfusion.types import Cameras, Conditioning


class PlainPrompting:
    """ "a cat" -> "a cat"."""

    def __init__(self, negative: str) -> None:
        """`negative` is the text of the unconditional branch; "" is plain classifier-free guidance."""
        self.negative = str(negative)  # Hydra parses negative=3 as a number

    def texts(self, prompt: str) -> list[str]:
        """The prompt alone."""
        return [prompt.strip()]

    def encode(self, prior: Prior, prompt: str) -> TextTable:
        """Encode the prompt and the negative text; log a warning if the prompt is unknown to the prior."""
        prior.warn_if_unknown(prompt)
        return encode_texts(prior, self.texts(prompt), self.negative)

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """The same text for all B views."""
        return select_texts(table, torch.zeros(len(cameras), dtype=torch.int64), cameras)
