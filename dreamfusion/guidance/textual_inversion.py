"""Textual inversion (Gal et al. 2023): new words of a prompt, each with embeddings of its own from a small file."""

from collections.abc import Sequence
from typing import Any

from dreamfusion.guidance.hub import find_file
from dreamfusion.guidance.pretrained import refused

PAIR = {"clip_l", "clip_g"}  # keys of the first and the second encoder of Stable Diffusion XL
UNNAMED = {"emb_params", *PAIR}  # keys that are not the word itself, which then is the file's name


def add_words(names: Sequence[str], tokenizer: Any, encoder: Any, key: str | None) -> dict[str, str]:
    """Add the word of each file to the tokenizer and the encoder; the text that stands for each word.

    Args:
        names: .safetensors files of diffusers or AUTOMATIC1111, or `owner/name/file` on the hub.
        tokenizer, encoder: changed in place.
        key: of this encoder in a file for two encoders; None: the prior has one.

    Raises:
        GuidanceError: a file is missing, pickled, of another model, or its word is known already.
    """
    from safetensors.torch import load_file

    spelled = {}
    for name in names:
        file = find_file(name, "guidance.tokens")
        with refused(f"guidance.tokens={name} is no textual inversion of this model, in safetensors"):
            state = load_file(file)
            if (set(state) != PAIR) if key else (len(state) != 1):
                raise KeyError(f"expected {'clip_l and clip_g' if key else 'one word'}, got {', '.join(sorted(state))}")
            entry = key or next(iter(state))
            vectors = state[entry].reshape(-1, state[entry].shape[-1])
            word = file.stem if entry in UNNAMED else entry
            pieces = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
            if tokenizer.add_tokens(pieces) != len(pieces):
                raise ValueError(f"the word {word} is known already; rename the file or the word in it")
            table = encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight
            table.data[-len(pieces) :] = vectors.to(table)
        spelled[word] = " ".join(pieces)
    return spelled
