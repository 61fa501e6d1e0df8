"""CLIP and the loss of Dream Fields on a small random network of the published class."""

import shutil

import pytest
import torch
from options import make_method, make_sds, option
from pipelines import save_clip_model
from priors import GaussianPrior

from dreamfusion.error import GuidanceError
from dreamfusion.evaluation.prior_score import text_score
from dreamfusion.types import Conditioning

SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip_model(tmp_path_factory.mktemp("clip"), SIDE)


@pytest.fixture(scope="module")
def prior(folder):
    return option("guidance/clip", model=str(folder))


@pytest.fixture
def conditioning(prior, make_cameras):
    return Conditioning(prior.encode_text(["a cat", "a dog"]), prior.encode_text(["", ""]), make_cameras([0.0, 90.0]))


def cosines(folder, rgb, texts):
    """The diagonal of CLIPModel's own logits, without their scale."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    constants = CLIPImageProcessor()
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (constants.image_mean, constants.image_std))
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    output = model(pixel_values=(rgb - mean) / deviation, **tokens)
    return (output.logits_per_image / model.logit_scale.exp()).diagonal()


def test_the_gradient_is_that_of_minus_the_mean_cosine_of_clips_own_logits(prior, folder, conditioning):
    rgb = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    method = make_method("clip_similarity", prior)
    method(rgb, conditioning, 0.5, torch.Generator().manual_seed(0)).loss.backward()
    (expected,) = torch.autograd.grad(-cosines(folder, rgb, ["a cat", "a dog"]).mean(), rgb)
    torch.testing.assert_close(rgb.grad, expected, atol=1e-6, rtol=1e-4)
    assert rgb.grad.abs().max() > 1e-5
    assert not any(parameter.requires_grad for parameter in prior._vision.parameters())


def test_the_score_of_renders_is_their_mean_cosine(prior, folder, conditioning):
    rgb = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = cosines(folder, rgb, ["a cat", "a dog"]).mean().item()
    assert text_score(prior, rgb, conditioning) == pytest.approx(expected, abs=1e-5)


def test_a_diffusion_method_without_a_diffusion_model_is_refused_and_the_reverse(prior, conditioning):
    rgb = torch.rand(2, 3, SIDE, SIDE)
    with pytest.raises(GuidanceError, match="guidance=clip denoises nothing; type distillation=clip_similarity"):
        make_sds(prior)(rgb, conditioning, 0.0, torch.Generator())
    with pytest.raises(ValueError, match="guidance gaussian has no embedding of images; type guidance=clip"):
        make_method("clip_similarity", GaussianPrior())


def test_the_first_hub_model_is_read_from_the_cache_without_a_network(prior, folder, cached_offline):
    cached_offline(prior.models[0], folder)
    torch.testing.assert_close(option("guidance/clip").encode_text(["a"]).pooled, prior.encode_text(["a"]).pooled)


def test_a_long_prompt_keeps_the_end_which_names_the_view(prior, caplog):
    front, back = prior.encode_text([f"{'x' * 100} {view}" for view in ("front", "back")]).pooled
    assert (front - back).abs().max() > 1e-4
    assert "more than the 10 of the text encoder; cut: " in caplog.text


def test_a_tokenizer_without_its_files_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("vocab.json", "merges.txt"):
        (copy / name).unlink()
    with pytest.raises(GuidanceError, match=r"copy (has no vocabulary|cannot be read)"):
        option("guidance/clip", model=str(copy)).encode_text(["a cat"])


def test_previews_of_an_embedding_are_grey(prior):
    assert prior.decode(torch.zeros(2, 8, 1, 1)).unique().tolist() == [0.5]
