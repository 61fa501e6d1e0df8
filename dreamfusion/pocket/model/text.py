"""The pocket prior's frozen text encoder: all-MiniLM-L6-v2 (Apache-2.0), per-token states of at most 16 tokens.

Stage 3 of the flow for `guidance=pocket`; stored in fp16 inside the package, so that no download is needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from dreamfusion.types import TextEmbedding

TOKENS = 16  # longer texts are truncated: the training captions are short
WIDTH = 384


class TextEncoder(nn.Module):
    """Encode texts as per-token states (K, 16, 384), zero at padding."""

    def __init__(self, bert: nn.Module, tokenizer: object) -> None:
        super().__init__()
        self.bert = bert
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the encoder from a folder in Hugging Face's layout (config.json, model.safetensors, tokenizer.json)."""
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        tokenizer.enable_truncation(TOKENS)
        tokenizer.enable_padding(length=TOKENS)
        options = {"local_files_only": True, "use_safetensors": True}
        bert = BertModel.from_pretrained(str(folder), add_pooling_layer=False, **options)
        return cls(bert.float().eval().requires_grad_(False), tokenizer)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts -> states (K, 16, 384) and mask (K, 16)."""
        encoded = self._tokenizer.encode_batch(list(texts))  # type: ignore[attr-defined]
        device = next(self.bert.parameters()).device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextEmbedding(states * mask[..., None], mask.bool())

    def sentence(self, texts: Sequence[str]) -> Tensor:
        """K texts -> unit vectors (K, 384); their dot product is all-MiniLM-L6-v2's similarity."""
        embedding = self(texts)
        return sentence_vector(embedding.states, embedding.mask)

    def is_word(self, word: str) -> bool:
        """Whether the tokenizer has the word as a whole, as it has frequent English words."""
        return self._tokenizer.token_to_id(word) is not None  # type: ignore[attr-defined]


def sentence_vector(states: Tensor, mask: Tensor) -> Tensor:
    """Unit-length mean of the token states without padding: (B, L, D), (B, L) -> (B, D)."""
    weight = mask[..., None].to(states.dtype)
    mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
    return nn.functional.normalize(mean, dim=-1)


class CaptionCache:
    """Encode every distinct caption once; a table on the encoder's device holds the states in fp16."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, int] = {}
        self._states, self._masks = torch.empty(0, TOKENS, WIDTH, dtype=torch.half), torch.empty(0, TOKENS).bool()

    def to(self, device: torch.device) -> Self:
        """Move encoder and table."""
        self._encoder.to(device)
        self._states, self._masks = self._states.to(device), self._masks.to(device)
        return self

    def __call__(self, captions: Sequence[str]) -> TextEmbedding:
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._rows]
        device = self._states.device
        with torch.autocast(device.type, enabled=False):  # no fp16 autocast on CPUs
            if new:
                encoded, begin = self._encoder(sorted(new)), len(self._rows)
                self._make_room(begin + len(new))
                self._states[begin : begin + len(new)] = encoded.states.half()
                self._masks[begin : begin + len(new)] = encoded.mask
                self._rows |= {text: begin + place for place, text in enumerate(sorted(new))}
            rows = torch.tensor([self._rows[caption] for caption in captions], device=device)
            return TextEmbedding(self._states[rows].float(), self._masks[rows])

    def _make_room(self, rows: int) -> None:
        """Double the table until it has `rows`."""
        if rows > len(self._states):
            more = max(rows, 2 * len(self._states)) - len(self._states)
            self._states = torch.cat([self._states, self._states.new_zeros(more, TOKENS, WIDTH)])
            self._masks = torch.cat([self._masks, self._masks.new_zeros(more, TOKENS)])
