"""Texts as tokens of an encoder with a limited number of places: a long prompt loses a part of its middle."""

import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)
ENDING = 16  # tokens of a long prompt's end that are kept, with the words of the view


def tokenized(texts: Sequence[str], tokenizer: Any, length: int) -> Any:
    """K texts as `input_ids` and `attention_mask`, (K, length) each, padded or `shortened`."""
    short = [shortened(text, tokenizer, length) for text in texts]
    return tokenizer(short, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def shortened(text: str, tokenizer: Any, length: int) -> str:
    """The text without a part of its middle if it has more than `length` tokens; its end names the view."""
    room, places = length - tokenizer.num_special_tokens_to_add(), _places(text, tokenizer)
    if len(places) <= room:
        return text
    ending = min(ENDING, room // 2)
    for kept in range(room, ending, -1):  # two words that meet at the cut may need one token more
        start, end = places[kept - ending - 1][1], places[-ending][0]
        short = f"{text[:start].rstrip()} {text[end:].lstrip()}"
        if len(_places(short, tokenizer)) <= room:
            break
    cut = text[start:end].strip()
    log.warning("a prompt has %d tokens, more than the %d of the text encoder; cut: %r", len(places), room, cut)
    return short


def _places(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """First and last character of each token of a text."""
    return list(tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping)
