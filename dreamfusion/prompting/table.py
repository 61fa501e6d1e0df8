"""Prompting strategies, and their texts, encoded once a run.

Stages 2, 3 and 10 of the flow; `view_dependent.py` and `plain.py` are the strategies.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import Prior
from dreamfusion.types import Cameras, Conditioning, Movable, TextEmbedding


@dataclass(frozen=True, eq=False)
class TextTable(Movable):
    """K encoded texts and the encoded text of the unconditional branch, or one for each of the K."""

    texts: TextEmbedding  # (K, L, D)
    negative: TextEmbedding  # (1 or K, L, D), the empty text or the negative prompt
    empty: TextEmbedding | None = None  # (1, L, D), the empty text; None: `negative` is the empty text

    def __post_init__(self) -> None:
        if len(self.negative) not in (1, len(self.texts)):
            raise ValueError(f"TextTable.negative holds {len(self.negative)} texts, expected 1 or {len(self.texts)}")


class Prompting(ABC):
    """Map a prompt and cameras to the text of each view."""

    def __init__(self, negative: str | Sequence[str]) -> None:
        """`negative`: text of the unconditional branch, or K texts; "" is plain classifier-free guidance.

        Raises:
            ValueError: it has a text for each of other things than texts.
        """
        if isinstance(negative, Mapping):
            raise ValueError(
                f"prompting.negative is {dict(negative)}; texts by view need prompting=view_dependent: type one text"
            )
        several = isinstance(negative, Sequence) and not isinstance(negative, str)
        self.negatives = [str(text) for text in (negative if several else [negative])]  # Hydra parses 3 as a number

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
        if len(self.negatives) not in (1, len(texts)):
            raise UserError(
                f"prompting.negative has {len(self.negatives)} texts; one is allowed, or one for each of the prompt's "
                f"{len(texts)}: type 'prompting.negative=\"{', '.join(self.negatives)}\"'"
            )
        empty = [""] if any(self.negatives) else []
        encoded = prior.encode_text([*texts, *self.negatives, *empty])
        index = torch.arange(len(encoded), device=encoded.states.device)
        parts = [encoded[part] for part in index.split([len(texts), len(self.negatives), len(empty)])]
        return TextTable(parts[0], parts[1], parts[2] if empty else None)

    def condition(self, table: TextTable, cameras: Cameras) -> Conditioning:
        """Conditioning of B views."""
        index = self.view(cameras).to(table.texts.states.device)
        empty = None if table.empty is None else table.empty[torch.zeros_like(index)]
        return Conditioning(table.texts[index], table.negative[index % len(table.negative)], cameras, empty)
