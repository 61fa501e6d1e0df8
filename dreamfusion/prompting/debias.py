"""Prompt debiasing (Hong et al. 2023, Sec. 4.2): remove the words of a prompt that contradict a view.

In "a smiling corgi, back view" the word "smiling" makes the front more likely. Which words contradict a view is read
from a masked language model, which text encoders of priors are not: it predicts the view at "[MASK] view of ...", with
and without the word.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.hub import find_model
from dreamfusion.guidance.pretrained import refused

log = logging.getLogger(__name__)

SENTENCE = "This is a photo of the {mask} view of {prompt}."


def debiased(prompt: str, views: Sequence[str], model: str, threshold: float) -> list[str]:
    """The prompt for each view, without the words that make the view unlikely.

    A word is removed from the text of a view v if p(v | all words) < threshold times the mean of p(v | all words) and
    p(v | all other words), with p over `views` alone. A view that would lose all words keeps the prompt.

    Args:
        prompt: at least one word; words are separated by spaces.
        views: words that the language model knows, such as "front".
        model: masked language model of transformers, such as BERT: folder or hub id. Freed afterwards.
        threshold: 0 (keep all words) to 1 (remove every word that makes the view less likely).

    Raises:
        GuidanceError: no such model, or a view is not one of its tokens.
    """
    words = prompt.split()
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    full, *others = view_probabilities([prompt, *without], views, model)
    texts = []
    for column, view in enumerate(views):
        kept = [
            word
            for word, other in zip(words, others, strict=True)
            if full[column] >= threshold * (full[column] + other[column]) / 2
        ]
        texts.append(" ".join(kept) if kept else prompt)
        if 0 < len(kept) < len(words):
            log.info('The text of the %s view is "%s".', view, texts[-1])
    return texts


@torch.no_grad()
def view_probabilities(prompts: Sequence[str], views: Sequence[str], model: str) -> torch.Tensor:
    """p(view | prompt) of a masked language model, (prompts, views); rows sum to 1."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = str(find_model((model,), None, (".",), False, "prompting.debias.model"))
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # it would ask for consent
    with refused(f"{folder} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        network = AutoModelForMaskedLM.from_pretrained(folder, use_safetensors=True, **options).eval()
    tokens = tokenizer.convert_tokens_to_ids(list(views))
    unknown = [view for view, token in zip(views, tokens, strict=True) if token in (None, tokenizer.unk_token_id)]
    if unknown or tokenizer.mask_token is None:
        raise GuidanceError(
            f"{model} has no token for {', '.join(unknown) or 'a mask'}; type "
            "prompting.debias.model=google-bert/bert-base-uncased, or null to keep all words"
        )
    sentences = [SENTENCE.format(mask=tokenizer.mask_token, prompt=prompt) for prompt in prompts]
    batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    logits = network(**batch).logits[batch.input_ids == tokenizer.mask_token_id]  # (prompts, vocabulary)
    return logits[:, tokens].float().softmax(dim=-1)
