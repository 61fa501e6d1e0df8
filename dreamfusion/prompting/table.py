"""Prompting strategies, and their texts, encoded once a run.

Stages 2, 3 and 10 of the flow; `view_dependent.py` and `plain.py` are the strategies.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import Prior
from dreamfusion.types import Cameras, Conditioning, Movable, TextEmbedding

LONGEST_PROMPT = 2000  # characters, far above the limit of the text encoders


@dataclass(frozen=True, eq=False)
class TextTable(Movable):
    """K encoded texts and the encoded text of the unconditional branch."""

    texts: TextEmbedding  # (K, L, D)
    negative: TextEmbedding  # (1, L, D), the empty text or the negative prompt
    empty: TextEmbedding | None = None  # (1, L, D), the empty text; None: `negative` is the empty text

    def __post_init__(self) -> None:
        if len(self.negative) != 1:
            raise ValueError(f"TextTable.negative holds {len(self.negative)} texts, expected 1")


class Prompting(ABC):
    """Map a prompt and cameras to the text of each view."""

    def __init__(self, negative: str) -> None:
        """`negative` is the text of the unconditional branch, for all views; "" is plain classifier-free guidance."""
        self.negative = str(negative)  # Hydra parses negative=3 as a number

    @abstractmethod
    def texts(self, prompt: str) -> list[str]:
        """The K texts of a prompt."""

    @abstractmethod
    def view(self, cameras: Cameras) -> Tensor:
        """Index into the texts for each of B cameras, (B,) int64."""

    def encode(self, prior: Prior, prompt: str) -> TextTable:
        """Encode all texts in one call, once a run; warn if the prompt is unknown to the prior."""
        prior.warn_if_unknown(prompt)
        texts = self.texts(prompt)
        encoded = prior.encode_text([*texts, self.negative, *([""] if self.negative else [])])
        index, count = torch.arange(len(encoded), device=encoded.states.device), len(texts)
        empty = encoded[index[-1:]] if self.negative else None
        return TextTable(encoded[index[:count]], encoded[index[count : count + 1]], empty)

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """Conditioning of B views."""
        index = self.view(cameras).to(table.texts.states.device)
        first = torch.zeros_like(index)
        empty = None if table.empty is None else table.empty[first]
        return Conditioning(table.texts[index], table.negative[first], cameras, empty)


def check_prompt(prompt: object) -> None:
    """Raises: UserError: no prompt, an empty one, one that is too long, or invalid Unicode."""
    if prompt is None or not str(prompt).strip():
        raise UserError('there is no prompt; type prompt="a cat"')
    if len(str(prompt)) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(str(prompt))} characters; at most {LONGEST_PROMPT} are allowed")
    try:
        str(prompt).encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not valid UTF-8; set the terminal to UTF-8") from error
