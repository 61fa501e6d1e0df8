"""The pocket adapter on a small random network of the real class, and the vocabulary check on the real text encoder."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from options import make_sds, noises, option, predict

from dreamfusion.error import GuidanceError
from dreamfusion.guidance import pocket
from dreamfusion.guidance.pocket import WEIGHTS
from dreamfusion.guidance.prior import seen_size
from dreamfusion.pocket import LENGTHS
from dreamfusion.pocket.model.denoiser import WHITE, PocketModel, camera_features, with_appearance
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.training.naming import fit_names
from dreamfusion.truth.composed import Placed
from dreamfusion.types import Branch, Conditioning

TINY = {
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
}
SMALL = {"voxels": 16, "code": 4, "coarse": 16, "middle": 8, "fine": 8, "width": 16, "hidden": 16}  # feature volume


def pocket_prior(weights=None, **changes):
    return option("guidance/pocket", weights=None if weights is None else str(weights), **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random network beside the package's own text encoder and vocabulary."""
    folder = tmp_path_factory.mktemp("pocket")
    torch.manual_seed(0)
    model = PocketModel.create(TINY, {"cat 1": "cat", "dog": "dog", "cat 2": "cat"}, **SMALL)
    fit_names(model.feature_volume.classify, TextEncoder.load(WEIGHTS / "text_encoder"), {"cat": 0, "dog": 1})
    model.save(folder)
    (folder / LENGTHS).write_text('{"cat 1": 40, "dog": 80}')
    for part in ("text_encoder", "vocabulary.txt"):
        (folder / part).symlink_to(WEIGHTS / part)
    return folder


@pytest.fixture(scope="module")
def prior(folder):
    return pocket_prior(folder)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([100, 700])


def test_the_noise_and_the_networks_clean_image_add_up_to_the_noisy_one(prior, batch, make_cameras):
    noisy, timestep = batch
    text, cameras = prior.encode_text(["a cat", "a dog"]), make_cameras([30.0, 200.0])
    noise = predict(prior, noisy, timestep, text, cameras)
    features = camera_features(cameras.azimuth, cameras.elevation, cameras.distance)
    features = with_appearance(features, torch.tensor([WHITE, WHITE]))
    clean = PocketModel.load(prior._folder).eval()(noisy, timestep, text.states, text.mask, features).detach()
    abar = prior.alphas_cumprod[timestep][:, None, None, None]
    torch.testing.assert_close(abar.sqrt() * clean + (1 - abar).sqrt() * noise, noisy, atol=1e-4, rtol=1e-4)
    assert not noise.requires_grad


def test_branches_of_one_batch_are_independent_and_the_camera_matters(prior, batch, make_cameras):
    noisy, timestep = batch
    text, cameras = prior.encode_text(["a cat", "a cat"]), make_cameras([30.0, 30.0])
    known, unknown = noises(prior, noisy, timestep, [Branch(text, cameras), Branch(text)])
    torch.testing.assert_close(unknown, predict(prior, noisy, timestep, text), atol=1e-4, rtol=1e-4)
    assert (known - unknown).abs().max() > 1e-4


def test_without_camera_conditioning_the_camera_has_no_effect(folder, batch, make_cameras):
    noisy, timestep = batch
    prior = pocket_prior(folder, camera_conditioning=False)
    text = prior.encode_text(["a cat", "a cat"])
    torch.testing.assert_close(
        predict(prior, noisy, timestep, text, make_cameras([30.0, 90.0])),
        predict(prior, noisy, timestep, text),
    )


def test_without_camera_conditioning_distillation_is_guided_more_strongly(folder):
    assert pocket_prior(folder).guidance_scale == 1.0
    assert pocket_prior(folder, camera_conditioning=False).guidance_scale == 20.0
    assert pocket_prior(folder, camera_conditioning=False, untold_guidance_scale=2.0).guidance_scale == 2.0


def test_cameras_are_clamped_to_the_training_range(prior, batch, make_cameras):
    noisy, timestep = batch
    text = prior.encode_text(["a cat", "a cat"])
    far = make_cameras([0.0, 0.0], elevation=[90.0, -60.0], distance=[9.0, 1.0])
    edge = make_cameras([0.0, 0.0], elevation=[75.0, -15.0], distance=[3.3, 2.7])
    torch.testing.assert_close(predict(prior, noisy, timestep, text, far), predict(prior, noisy, timestep, text, edge))


def test_latents_are_the_image_in_minus_one_to_one(prior):
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = prior.encode_image(rgb)
    torch.testing.assert_close(latents, 2 * rgb - 1)
    torch.testing.assert_close(prior.decode(latents), rgb)
    assert prior.decode(torch.full((1, 3, 64, 64), 3.0)).max() == 1


def test_the_default_gradient_of_sds_is_render_minus_clean_estimate(prior, make_cameras):
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text = prior.encode_text(["a cat, front view", "a cat, back view"])
    conditioning = Conditioning(text, prior.encode_text(["", ""]), make_cameras([0.0, 180.0]))
    output = make_sds(prior)(rgb, conditioning, 0.0, torch.Generator().manual_seed(0))
    output.loss.backward()
    expected = prior.encode_image(rgb.detach()) - output.denoised
    torch.testing.assert_close(rgb.grad, expected, atol=1e-3, rtol=1e-3)


def test_noise_levels_are_those_of_the_networks_schedule_in_single_precision(prior):
    assert prior.alphas_cumprod.dtype == torch.float32
    # squaredcos_cap_v2 (Nichol & Dhariwal 2021, Eq. 17): abar = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2)
    time = (torch.arange(1, 1000) / 1000 + 0.008) / 1.008 * torch.pi / 2
    expected = time.cos().square() / torch.tensor(0.008 / 1.008 * torch.pi / 2).cos().square()
    torch.testing.assert_close(prior.alphas_cumprod[:999], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "prompt",
    ["a kitten", "a puppy", "a red armchair", "a burger", "a purple cactus", "A CAT, oil painting, highly detailed"],
)
def test_prompts_near_the_vocabulary_give_no_warning(prior, caplog, prompt):
    with caplog.at_level(logging.WARNING):
        prior.warn_if_unknown(prompt)
    assert caplog.records == []


@pytest.mark.parametrize("prompt", ["a dragon", "quantum entanglement", "the eiffel tower", "a jellyfish"])
def test_an_unrelated_prompt_gives_one_warning_with_the_nearest_names_and_an_alternative(prior, caplog, prompt):
    with caplog.at_level(logging.WARNING):
        prior.warn_if_unknown(prompt)
    (record,) = caplog.records
    message = record.getMessage()
    assert prompt in message
    assert "guidance=sd" in message
    assert len(message.split("nearest: ")[1].split(", ")) == 4


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [("a red chiar", "a chair"), ("a ct", "a cat"), ("a telefone", "a telephone"), ("a cat on a chiar", "a chair")],
)
def test_a_misspelled_object_is_asked_for_and_not_read(prior, caplog, prompt, meant):
    with caplog.at_level(logging.INFO):
        prior.warn_if_unknown(prompt)
    assert f'did you mean "{meant}"?' in caplog.messages[-1] and "nearest" not in caplog.messages[-1]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a cat wearing a tiara", "reads a cat; it ignores tiara"),
        ("a golden teapot", "reads a yellow teapot (golden as yellow)"),
        ("a red and striped armchair", "reads a red armchair; it ignores striped"),
        ("two apples on a plate", "reads apples and apples on a plate"),
        ("a kitten", "reads a cat (kitten as cat)"),
    ],
)
def test_the_words_of_a_prompt_that_are_ignored_are_named(prior, caplog, prompt, sentence):
    with caplog.at_level(logging.INFO):
        prior.warn_if_unknown(prompt)
    assert sentence in caplog.messages[-1]


@pytest.mark.parametrize("prompt", ["a cat", "an escalator", "a red armchair"])
def test_a_prompt_of_known_words_is_announced_as_it_is(prior, caplog, prompt):
    with caplog.at_level(logging.INFO):
        prior.warn_if_unknown(prompt)
    assert caplog.messages == [f"the pocket prior reads {prompt}"]


def test_a_folder_without_a_prior_names_what_is_missing(tmp_path):
    with pytest.raises(GuidanceError, match=r"unet is missing; set guidance.weights=null"):
        pocket_prior(tmp_path)


def test_a_variant_out_of_range_raises_with_the_range(folder):
    with pytest.raises(
        GuidanceError, match=r'variant=1, but the prior has 1 of "(cat|dog)"; leave guidance.variant out'
    ):
        pocket_prior(folder, variant=1).warn_if_unknown("a dog")
    pocket_prior(folder, variant=1).warn_if_unknown("a cat and a dog")  # the dog stays the first
    for variant in (-1, "any", 0.5):
        with pytest.raises(GuidanceError, match=rf"guidance.variant={variant}, expected random, or 0 or more"):
            pocket_prior(folder, variant=variant)


def test_a_random_variant_depends_on_the_seed_alone(folder, batch, make_cameras):
    noisy, timestep = batch
    cameras = make_cameras([30.0, 30.0])

    def estimate(**changes):
        prior = pocket_prior(folder, **changes)
        return prior.denoise(noisy, timestep, [Branch(prior.encode_text(["a cat", "a cat"]), cameras)])[0]

    known = [estimate(variant=variant) for variant in (0, 1)]
    drawn = [estimate(variant="random", variant_seed=seed) for seed in (0, 0, 1)]
    which = [[torch.equal(one, other) for other in known] for one in drawn]
    assert which[0] == which[1] != which[2] and all(sum(row) == 1 for row in which)


def test_texts_of_several_scenes_in_one_batch_are_as_each_by_itself(folder, batch, make_cameras):
    noisy, timestep = batch
    prior, cameras = pocket_prior(folder), make_cameras([30.0, 200.0])
    texts = ["a cat on a dog", "a dog"]
    both = prior.denoise(noisy, timestep, [Branch(prior.encode_text(texts), cameras)])[0]
    for index, text in enumerate(texts):
        alone = pocket_prior(folder)
        clean = alone.denoise(noisy, timestep, [Branch(alone.encode_text([text, text]), cameras)])[0]
        torch.testing.assert_close(both[index], clean[index], atol=1e-5, rtol=1e-5)


def test_a_negative_prompt_that_names_nothing_is_no_second_scene(folder):
    prior = pocket_prior(folder)
    assert prior.encode_text(["a cat, front view", "a cat, back view", "blurry", ""]).pooled[:, 0].tolist() == [
        0,
        0,
        -1,
        -1,
    ]
    assert prior.encode_text(["a dragon"]).pooled.item() >= 0
    assert prior.encode_text(["a cat and a dog", "a cat"]).pooled[1].item() == 0


def test_a_second_object_changes_the_picture_and_so_does_its_side(folder, batch, make_cameras):
    noisy, timestep = batch
    prior, cameras = pocket_prior(folder), make_cameras([30.0, 200.0])
    prompts = ["a cat", "a cat and a dog", "a cat behind a dog", "a red cat and a dog"]
    seen = [prior.denoise(noisy, timestep, [Branch(prior.encode_text([p, p]), cameras)])[0] for p in prompts]
    for one, first in enumerate(seen):
        assert all((first - second).abs().max() > 1e-3 for second in seen[:one])


def test_a_layout_names_the_models_as_they_are_and_their_places(folder, monkeypatch):
    prior = pocket_prior(folder)
    assert prior.layout("a cat") is None  # of one's own, not the package's cat
    monkeypatch.setattr("dreamfusion.guidance.pocket_scenes.WEIGHTS", folder)
    assert prior.layout("a kitten") == (Placed("cat"),)
    assert (
        prior.layout("a red cat") is prior.layout("a dragon") is pocket_prior(folder, variant=1).layout("a cat") is None
    )
    one, other = prior.layout("a cat beside a dog")
    assert (one.name, other.name) == ("cat", "dog") and one.centre[0] < other.centre[0]
    assert pocket_prior(folder, variant=1).layout("a dog") == (Placed("dog"),)


def test_objects_are_as_large_to_each_other_as_in_their_library(folder, tmp_path):
    from dreamfusion.guidance.pocket_scenes import shown_lengths

    assert shown_lengths([40.0, 80.0], [1.0, 1.0])[0] == pytest.approx(0.5**0.6)
    assert shown_lengths([1.0, 800.0], [1.0, 2.0]) == (0.25, 2.0)
    assert shown_lengths([0.0, 80.0], [0.5, 1.0]) == (0.5, 1.0)
    prior = pocket_prior(folder)
    prior.encode_text(["a cat and a dog"])
    (scene,) = prior._scenes._numbers
    assert scene.lengths == shown_lengths([40.0, 80.0], [1.0, 1.0])


def test_the_unet_in_bfloat16_gives_the_same_estimate_but_for_its_rounding(folder, batch, make_cameras):
    noisy, timestep = batch
    estimates = []
    for dtype in ("float32", "bfloat16"):
        prior = pocket_prior(folder, dtype=dtype)
        torch.manual_seed(0)
        torch.nn.init.normal_(prior.model.unet.conv_out.weight, std=0.05)  # silent in a new network
        prior.to("cpu")
        text = prior.encode_text(["a cat", "a cat"])
        noise = predict(prior, noisy, timestep, text, make_cameras([30.0, 120.0]))
        assert noise.dtype == torch.float32
        abar = prior.alphas_cumprod[timestep][:, None, None, None]
        estimates.append((noisy - (1 - abar).sqrt() * noise) / abar.sqrt())
    exact, rounded = estimates
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_processor_supports_it(folder, monkeypatch, has):
    monkeypatch.setattr(pocket, "processor_bfloat16", lambda: has)
    model = pocket_prior(folder).to("cpu").model
    assert model.unet.conv_in.weight.dtype == (torch.bfloat16 if has else torch.float32)
    assert model.feature_volume.codes.dtype == torch.float32


def test_the_size_is_that_of_the_images_it_looks_at(folder, make_cameras):
    large = pocket_prior(folder, size=128)
    assert large.resolution == 128 and pocket_prior(folder).resolution == 64
    text = large.encode_text(["a cat"])
    noise = predict(large, torch.zeros(1, 3, 128, 128), torch.tensor([500]), text, make_cameras([30.0]))
    assert noise.shape == (1, 3, 128, 128)
    either = pocket_prior(folder, size=None)
    assert [seen_size(either, pixels) for pixels in (32, 64, 96, 128, 512)] == [64, 64, 64, 128, 128]
    assert seen_size(large, 64) == 128
    with pytest.raises(GuidanceError, match=r"guidance.size=100, expected null or one of 64, 128"):
        pocket_prior(folder, size=100)


def test_an_unknown_dtype_is_named(folder):
    with pytest.raises(ValueError, match=r"unknown dtype 'half'; type guidance.dtype=auto, or one of float32, "):
        pocket_prior(folder, dtype="half")


def test_an_unconditional_branch_has_no_camera(prior, batch, make_cameras):
    noisy, timestep = batch
    text, cameras = prior.encode_text(["", ""]), make_cameras([30.0, 30.0])
    with_camera, without = prior.denoise(noisy, timestep, [Branch(text, cameras, unconditional=True), Branch(text)])
    torch.testing.assert_close(with_camera, without, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/pytorch_model"])
def test_pickled_weights_are_not_read(part, folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    sent = tmp_path / "sent"
    shutil.copytree(folder, sent)
    pickled = sent / f"{part}.bin"
    if not pickled.parent.is_dir():
        pytest.skip("the folder has no such part")
    for weights in pickled.parent.glob("*.safetensors"):
        weights.unlink()
    torch.save({"x": Payload()}, pickled)
    with pytest.raises(Exception, match="safetensors"):
        pocket_prior(sent)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("unet/diffusion_pytorch_model.safetensors", b"x" * 100),
        ("unet/config.json", b"{}"),
        ("scheduler/scheduler_config.json", b"["),
        ("text_encoder/tokenizer.json", b"{"),
        ("text_encoder/model.safetensors", b""),
    ],
)
def test_a_damaged_folder_is_one_sentence(folder, tmp_path, name, contents):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_bytes(contents)
    with pytest.raises(
        GuidanceError, match=r"copy cannot be read: .*; guidance\.weights=null is the built-in one"
    ) as caught:
        pocket_prior(copy)
    assert "\n" not in str(caught.value)
