"""The DeepFloyd adapter on small random networks of the published classes."""

import pytest
import torch
from options import make_sds, option, predict
from pipelines import save_deepfloyd

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.deepfloyd import TOKENS
from dreamfusion.types import Conditioning

SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_deepfloyd(tmp_path_factory.mktemp("deepfloyd"), SIDE)


@pytest.fixture(scope="module")
def prior(folder):
    return option("guidance/deepfloyd", model=str(folder))


def test_the_noise_is_the_first_three_of_six_channels(prior):
    noisy = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    timestep, text = torch.tensor([100, 700]), prior.encode_text(["a cat", "a dog"])
    raw = prior._network(noisy, timestep, encoder_hidden_states=text.states).sample
    assert raw.shape[1] == 6
    noise = predict(prior, noisy, timestep, text)
    torch.testing.assert_close(noise, raw[:, :3].detach())
    assert not noise.requires_grad


def test_latents_are_the_image_in_minus_one_to_one(prior):
    rgb = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.encode_image(rgb), 2 * rgb - 1)
    torch.testing.assert_close(prior.decode(prior.encode_image(rgb)), rgb)
    assert prior.resolution == SIDE


def test_texts_are_lower_case_and_padded_to_77_tokens(prior):
    text = prior.encode_text(["a cat", " A CAT ", ""])
    assert text.states.shape == (3, TOKENS, 16)
    torch.testing.assert_close(text.states[0], text.states[1])
    assert text.mask[2].sum() == 1  # the end of the sentence
    assert text.mask[0].sum() > 1


@torch.no_grad()
def test_padding_has_no_effect_on_the_states_of_a_text(prior, folder):
    from transformers import T5EncoderModel, T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(str(folder / "tokenizer"))
    encoder = T5EncoderModel.from_pretrained(str(folder / "text_encoder"))
    alone = encoder(**tokenizer("a cat", return_tensors="pt")).last_hidden_state[0]
    text = prior.encode_text(["a cat"])
    torch.testing.assert_close(text.states[0][text.mask[0]], alone, atol=1e-5, rtol=1e-4)


def test_sds_trains_the_image_and_nothing_of_the_prior(prior, make_cameras):
    rgb = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text, negative = prior.encode_text(["a cat", "a cat"]), prior.encode_text(["", ""])
    output = make_sds(prior)(rgb, Conditioning(text, negative, make_cameras([0.0, 90.0])), 0.0, torch.Generator())
    output.loss.backward()
    assert rgb.grad.isfinite().all()
    assert rgb.grad.flatten(1).norm(dim=1).min() > 0
    assert not any(parameter.requires_grad for parameter in prior._network.parameters())


def test_a_missing_folder_is_named():
    with pytest.raises(GuidanceError, match="/no/such/folder: no such folder"):
        option("guidance/deepfloyd", model="/no/such/folder")


def test_a_sentencepiece_tokenizer_without_sentencepiece_says_what_to_install(folder, tmp_path, monkeypatch):
    for part in ("unet", "scheduler", "text_encoder"):
        (tmp_path / part).symlink_to(folder / part)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").touch()
    monkeypatch.setattr("dreamfusion.guidance.diffusers_prior.find_spec", lambda name: None)
    with pytest.raises(GuidanceError, match="pip install sentencepiece"):
        option("guidance/deepfloyd", model=str(tmp_path))
