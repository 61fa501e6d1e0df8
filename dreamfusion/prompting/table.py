"""The protocol of prompting strategies, and their texts, encoded once a run.

Stages 2, 3 and 10 of the flow; `view_dependent.py` and `plain.py` are the strategies.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import Prior
from dreamfusion.types import Cameras, Conditioning, TextEmbedding

LONGEST_PROMPT = 2000  # characters, far above the limit of the text encoders


@dataclass(frozen=True, eq=False)
class TextTable:
    """K encoded texts and the encoded text of the unconditional branch."""

    texts: TextEmbedding  # (K, L, D)
    negative: TextEmbedding  # (1, L, D), the empty text or the negative prompt

    def __post_init__(self) -> None:
        count = self.negative.states.shape[0]
        if count != 1:
            raise ValueError(f"TextTable.negative holds {count} texts, expected 1")

    def to(self, device: torch.device | str) -> Self:
        """A copy on `device`."""
        return type(self)(self.texts.to(device), self.negative.to(device))


class Prompting(Protocol):
    """Map a prompt and cameras to the text of each view."""

    def texts(self, prompt: str) -> list[str]:
        """The K texts of a prompt."""
        ...

    def encode(self, prior: Prior, prompt: str) -> TextTable:
        """Encode all texts with the prior's encoder, once a run."""
        ...

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """Conditioning of B views."""
        ...


def encode_texts(prior: Prior, texts: list[str], negative: str) -> TextTable:
    """Encode K texts and the negative text in one call, on the prior's device."""
    encoded = prior.encode_text([*texts, negative])
    index = torch.arange(len(texts) + 1, device=encoded.states.device)
    return TextTable(encoded[index[:-1]], encoded[index[-1:]])


def select_texts(table: TextTable, index: torch.Tensor, cameras: Cameras) -> Conditioning:
    """Conditioning of B views with text `index[b]` for view b; index (B,) int64."""
    index = index.to(table.texts.states.device)
    return Conditioning(table.texts[index], table.negative[torch.zeros_like(index)], cameras)


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
