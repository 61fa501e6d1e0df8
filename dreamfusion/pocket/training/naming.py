"""Linear classifier from the frozen text encoder's sentence vectors to the learned names.

Encoder and captions are fixed, so the classifier is fitted once, before training.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.pocket.data.captions import captions_of
from dreamfusion.pocket.model.denoiser import sentence_features
from dreamfusion.pocket.model.text import TextEncoder

BATCH = 256  # captions encoded at once
DECAY = 1e-4  # weight decay of the logistic regression: separates similar names, keeps unknown prompts uncertain
ITERATIONS = 60


def fit_names(classify: nn.Linear, encoder: TextEncoder, outputs_by_noun: Mapping[str, int]) -> float:
    """Fit `classify` to the captions of each noun and its output index; returns the share classified correctly.

    Multinomial logistic regression in which every output has the same weight, whatever its number of nouns.
    """
    texts = [(caption, output) for noun, output in outputs_by_noun.items() for caption in captions_of(noun)]
    captions = [text for text, _ in texts]
    parts = [encoder(captions[i : i + BATCH]) for i in range(0, len(captions), BATCH)]
    features = torch.cat([sentence_features(part.states, part.mask) for part in parts])
    outputs = torch.tensor([output for _, output in texts])
    share = 1 / torch.bincount(outputs, minlength=classify.out_features).clamp(min=1)[outputs].float()
    weight = torch.zeros_like(classify.weight, requires_grad=True)
    bias = torch.zeros_like(classify.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(F.linear(features, weight, bias), outputs, reduction="none") * share
        ).sum() / share.sum()
        loss = loss + DECAY * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        classify.weight.copy_(weight)
        classify.bias.copy_(bias)
        return float((F.linear(features, weight, bias).argmax(1) == outputs).float().mean())
