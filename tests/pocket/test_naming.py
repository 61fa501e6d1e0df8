from torch import nn

from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.data.captions import captions_of
from dreamfusion.pocket.model.denoiser import sentence_features
from dreamfusion.pocket.model.text import WIDTH, TextEncoder
from dreamfusion.pocket.model.words import COLORS
from dreamfusion.pocket.training.naming import fit_names


def test_captions_of_a_name_cover_all_colours_and_views():
    texts = captions_of("armchair")
    assert {"armchair", "an armchair", "a red armchair", "an armchair, back view", "a red armchair, side view"} <= {
        *texts
    }
    assert len(texts) == len({*texts}) == 1 + (1 + len(COLORS)) * 5


def test_it_separates_similar_names_and_generalises_to_new_words():
    encoder = TextEncoder.load(WEIGHTS / "text_encoder")
    classify = nn.Linear(WIDTH, 3).requires_grad_(False)
    outputs = {"teddy bear": 0, "doll": 1, "cat": 2, "sitting cat": 2}
    assert fit_names(classify, encoder, outputs) == 1.0
    for text, output in {"a fluffy teddy bear": 0, "a kitten": 2, "a big doll, front view": 1}.items():
        encoded = encoder([text])
        assert classify(sentence_features(encoded.states, encoded.mask)).argmax() == output, text
