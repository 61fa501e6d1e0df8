"""Claims that hold for every adapter over diffusers' networks."""

import gc

import pytest
import torch
from options import make_sds, option
from pipelines import save_mvdream, save_sd, save_sd3, save_sdxl

from dreamfusion.types import Conditioning

SAVE = {"sd": save_sd, "sdxl": save_sdxl, "sd3": save_sd3, "mvdream": save_mvdream}
SETTINGS = {"mvdream": {"checkpoint": None, "resolution": 32}}


@pytest.fixture(scope="module", params=SAVE)
def choice(request):
    return request.param


@pytest.fixture(scope="module")
def folder(choice, tmp_path_factory):
    return SAVE[choice](tmp_path_factory.mktemp(choice))


@pytest.fixture(scope="module")
def prior(choice, folder):
    return option(f"guidance/{choice}", model=str(folder), **SETTINGS.get(choice, {}))


def test_sds_trains_the_image_and_nothing_of_the_prior(prior, make_cameras):
    rgb = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text, negative = prior.encode_text(["a cat"] * 4), prior.encode_text([""] * 4)
    conditioning = Conditioning(text, negative, make_cameras([0.0, 90.0, 180.0, 270.0]))
    output = make_sds(prior)(rgb, conditioning, 0.0, torch.Generator().manual_seed(0))
    output.loss.backward()
    assert rgb.grad.isfinite().all()
    assert rgb.grad.flatten(1).norm(dim=1).min() > 0
    frozen = [*prior._network.parameters(), *prior._vae.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen)


def text_encoders():
    """All transformers models that are alive; `isinstance` would touch torch's deprecated proxies."""
    from transformers import PreTrainedModel

    return [thing for thing in gc.get_objects() if issubclass(type(thing), PreTrainedModel)]


def test_text_encoders_are_freed_once_the_texts_are_encoded(prior):
    gc.collect()  # what tests before this one left
    before = len(text_encoders())
    prior.encode_text(["a cat"])
    assert len(text_encoders()) == before


def test_the_first_hub_model_is_read_from_the_cache_without_a_network(choice, prior, folder, cached_offline):
    cached_offline(prior.models[0], folder)
    assert option(f"guidance/{choice}", **SETTINGS.get(choice, {})).encode_text(["a cat"]).states.isfinite().all()
