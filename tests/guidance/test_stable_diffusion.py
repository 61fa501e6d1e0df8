"""The Stable Diffusion adapter on small random networks of the published classes."""

import logging
import os
import socket
import time

import pytest
import torch
from options import option, predict
from pipelines import save_sd

from dreamfusion.error import GuidanceError
from dreamfusion.guidance import hub
from dreamfusion.guidance.stable_diffusion import StableDiffusionPrior


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def prior(folder):
    return option("guidance/sd", model=str(folder))


def image(b=1, size=32):
    return torch.rand(b, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_resolution_is_the_latents_side_times_the_autoencoders_factor(prior):
    assert prior.resolution == 32
    assert prior.encode_image(image()).shape == (1, 4, 16, 16)


def test_a_prior_moves_to_another_precision_without_a_hint_of_diffusers(folder):
    """Diffusers advises against it for modules that are to stay in float32, of which these networks have none."""
    prior, said, handler = option("guidance/sd", model=str(folder), dtype="bfloat16"), [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        prior.to("cpu")
        logging.getLogger("diffusers.models.modeling_utils").error("heard")
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said == ["heard"]


def test_the_output_is_read_by_the_folders_prediction_type(prior):
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    timestep, text = torch.tensor([100, 700]), prior.encode_text(["a cat", "a dog"])
    raw = prior._network(noisy, timestep, encoder_hidden_states=text.states).sample
    abar = prior.alphas_cumprod[timestep][:, None, None, None]
    expected = raw if prior._prediction == "epsilon" else (1 - abar).sqrt() * noisy + abar.sqrt() * raw
    noise = predict(prior, noisy, timestep, text)
    torch.testing.assert_close(noise, expected.detach())
    assert not noise.requires_grad


def test_the_gradient_through_the_encoder_matches_a_finite_difference(prior):
    rgb = image().requires_grad_()
    direction = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(1))
    prior.encode_image(rgb).sum().backward()
    slope = (rgb.grad * direction).sum()
    with torch.no_grad():
        step = 1e-3
        ahead, behind = (prior.encode_image(rgb + s * step * direction).double().sum() for s in (1, -1))
    assert slope.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=2e-2)


def test_encoding_is_deterministic_and_decoding_stays_in_the_image_range(prior):
    latents = prior.encode_image(image())
    torch.testing.assert_close(latents, prior.encode_image(image()))
    decoded = prior.decode(latents * 100)
    assert decoded.shape == (1, 3, 32, 32)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_texts_are_padded_and_cut_to_the_tokenizers_length_and_differ(prior):
    text = prior.encode_text(["a cat", "", "a cat with a very long name indeed"])
    assert text.states.shape == (3, 12, 16)
    assert text.mask.sum(1).tolist() == [6, 2, 12]
    assert (text.states[0] - text.states[1]).abs().max() > 1e-3
    torch.testing.assert_close(prior.encode_text(["a cat"]).states[0], text.states[0])


def test_compile_replaces_the_call_of_the_network_alone(folder, prior, monkeypatch):
    """Whether the compiler's code is right is torch's matter; it takes minutes."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **settings: compiled.append(call) or call)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored after the test
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    other = option("guidance/sd", model=str(folder), compile=True)
    assert compiled == [other._network._call_impl]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("/dreamfusion/compiled")  # a restart does not empty it
    noisy, timestep, text = torch.ones(1, 4, 16, 16), torch.tensor([500]), prior.encode_text(["a cat"])
    assert torch.equal(predict(other, noisy, timestep, text), predict(prior, noisy, timestep, text))


def test_options_load(folder):
    prior = option("guidance/sd", model=str(folder), dtype="bfloat16", attention_slicing=True, channels_last=False).to(
        "cpu"
    )
    text = prior.encode_text(["a cat"])
    noise = predict(prior, torch.zeros(1, 4, 16, 16), torch.tensor([500]), text)
    assert prior._network.dtype == torch.bfloat16
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()


def test_float16_files_are_read_where_there_are_no_others(folder, tmp_path):
    copy = tmp_path / "half"
    save_sd(copy, "epsilon")
    for network in copy.glob("*/*.safetensors"):
        network.rename(network.with_suffix(".fp16.safetensors"))
    prior = option("guidance/sd", model=str(copy))
    assert prior._network.dtype == torch.float32
    assert prior.encode_text(["a cat"]).states.isfinite().all()


def test_an_unknown_dtype_lists_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"'half'; type guidance\.dtype=auto, or one of float32, float16, bfloat16"):
        option("guidance/sd", model=str(folder), dtype="half")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub.hub_answers.cache_clear()
    yield
    hub.hub_answers.cache_clear()


def test_missing_weights_fail_at_once_with_what_was_tried_and_what_to_type(offline, monkeypatch):
    waits = []  # no network access and no retries
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **more: waits.append(address) or [])
    with pytest.raises(GuidanceError) as caught:
        option("guidance/sd")
    message = str(caught.value)
    assert all(model in message for model in StableDiffusionPrior.models)
    assert "not in the cache" in message
    assert "guidance.model=/path/to/folder" in message
    assert waits == []


@pytest.mark.parametrize(
    ("model", "reason"),
    [("/no/such/folder", "no such folder"), ("./neither", "no such folder"), ("a b c", "Repo id must")],
)
def test_a_mistyped_model_is_named(offline, model, reason):
    with pytest.raises(GuidanceError, match=f"{model}: {reason}"):
        option("guidance/sd", model=model)


def test_an_incomplete_folder_names_what_it_lacks(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(GuidanceError, match="has no vae, text_encoder, tokenizer, scheduler"):
        option("guidance/sd", model=str(tmp_path))


def test_an_unresponsive_hub_is_tried_once_with_a_short_timeout(offline, monkeypatch):
    from huggingface_hub import constants

    assert 0 < hub.TIMEOUT <= 10
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never responds
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(GuidanceError, match="the hub does not answer"):
            option("guidance/sd")
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):  # no second connection
            server.accept()


def test_views_encoded_one_by_one_have_the_latents_and_the_gradient_of_all_at_once(folder, prior):
    single = option("guidance/sd", model=str(folder), view_chunk=1)
    results = []
    for one in (prior, single):
        rgb = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        latents = one.encode_image(rgb)
        results.append((latents, *torch.autograd.grad(latents.square().sum(), rgb)))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_a_chunk_of_no_views_is_refused(folder):
    with pytest.raises(GuidanceError, match=r"guidance.view_chunk is 0; type guidance.view_chunk=1"):
        option("guidance/sd", model=str(folder), view_chunk=0)
