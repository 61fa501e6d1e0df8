"""Adapters on small random networks of the real classes."""

import pytest
import torch
from options import make_method, option
from pipelines import save_mvdream, save_sd, save_sd3
from test_pocket import SMALL, TINY
from torch import nn

from dreamfusion.guidance.pocket import WEIGHTS, PocketPrior
from dreamfusion.guidance.prior import text_branch
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.types import Branch, Conditioning


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    """Priors by name: of the package, a U-Net, a transformer, and one that couples views."""
    folder = tmp_path_factory.mktemp("pocket")
    torch.manual_seed(0)
    network = PocketModel.create(TINY, {"cat": "cat", "dog": "dog"}, **SMALL)
    torch.nn.init.normal_(network.unet.conv_out.weight)  # zero at first, which would hide the adapter
    network.save(folder)
    for part in ("text_encoder", "vocabulary.txt"):
        (folder / part).symlink_to(WEIGHTS / part)
    sd, sd3, mvdream = (save(tmp_path_factory.mktemp("model")) for save in (save_sd, save_sd3, save_mvdream))
    return {
        "pocket": option("guidance/pocket", weights=str(folder)),
        "sd": option("guidance/sd", model=str(sd), channels_last=False),
        "sd3": option("guidance/sd3", model=str(sd3)),
        "mvdream": option("guidance/mvdream", model=str(mvdream), checkpoint=None, resolution=32),
    }


@pytest.fixture(params=["pocket", "sd", "sd3", "mvdream"])
def case(request, priors, make_cameras):
    """A prior, noisy images, timesteps and a branch."""
    prior = priors[request.param]
    count = max(prior.views, 2)
    latents = prior.encode_image(torch.zeros(count, 3, prior.resolution, prior.resolution))
    noisy = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    text, cameras = prior.encode_text(["a", "b", "c", "d"][:count]), make_cameras([0.0, 90.0, 180.0, 270.0][:count])
    return prior, noisy, torch.tensor([100, 700, 100, 700][:count]), Branch(text, cameras)


def test_an_untrained_adapter_changes_nothing(case):
    prior, noisy, timestep, branch = case
    (before,) = prior.denoise(noisy, timestep, [branch])
    prior.adapt(2)
    torch.testing.assert_close(prior.denoise_adapted(noisy, timestep, branch), before)


def test_a_distributed_run_that_begins_sums_the_gradients_of_the_whole_adapter(case):
    """It takes the parameters that need a gradient then; peft freezes those of an adapter that is left out."""
    adapter = case[0].adapt(2)
    for enabled in (False, True, False):
        adapter.enable(enabled)
        assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_a_prior_that_is_moved_and_rounded_leaves_its_adapter_as_it_is_bit_for_bit(case, monkeypatch):
    prior, noisy, timestep, branch = case
    adapter = prior.adapt(2)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    before = [parameter.detach().clone() for parameter in adapter.parameters()]
    monkeypatch.setattr(prior, "dtype" if hasattr(prior, "dtype") else "_dtype_name", "bfloat16")
    prior.to("cpu")
    for parameter, value in zip(adapter.parameters(), before, strict=True):
        assert parameter.dtype == torch.float32 and torch.equal(parameter, value)
    prior.denoise_adapted(noisy, timestep, branch).square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in adapter.lora)
    assert {p.dtype for p in prior.adapt(2).parameters()} == {torch.float32}  # of a prior that is rounded already
    monkeypatch.undo()
    prior.to("cpu")


def test_training_the_adapter_leaves_the_prior_as_it_is_bit_for_bit(case):
    prior, noisy, timestep, branch = case
    (before,) = prior.denoise(noisy, timestep, [branch])
    adapter = prior.adapt(2)
    optimizer = torch.optim.Adam(adapter.parameters(), 0.1)
    for _ in range(2):  # the first step moves the second matrices only, which begin at zero
        optimizer.zero_grad()
        prior.denoise_adapted(noisy, timestep, branch).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    assert not torch.allclose(prior.denoise_adapted(noisy, timestep, branch), before, atol=1e-3)
    assert torch.equal(prior.denoise(noisy, timestep, [branch])[0], before)
    state = {name: value.clone() for name, value in adapter.state_dict().items()}
    trained = prior.denoise_adapted(noisy, timestep, branch)
    again = prior.adapt(2)  # replaces the first
    torch.testing.assert_close(prior.denoise_adapted(noisy, timestep, branch), before)
    again.load_state_dict(state)
    torch.testing.assert_close(prior.denoise_adapted(noisy, timestep, branch), trained)


def test_the_adapters_gradient_does_not_underflow_in_float16(tmp_path):
    """Of a mean over the pixels of latents as large as Stable Diffusion's, whatever the loss is multiplied with."""
    found, (noisy, clean) = [], torch.randn(2, 1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    folder = save_sd(tmp_path)
    for dtype, scale in (("float32", 1.0), ("float16", 1.0), ("float16", 65536.0)):
        prior = option("guidance/sd", model=str(folder), dtype=dtype)
        adapter = prior.adapt(4)
        for index, matrix in enumerate(adapter.lora):
            torch.nn.init.normal_(matrix, std=0.05, generator=torch.Generator().manual_seed(index))
        seen = prior.denoise_adapted(noisy, torch.tensor([500]), Branch(prior.encode_text(["a cat"])))
        ((seen - clean).square().mean() * scale).backward()
        found.append([matrix.grad / scale for matrix in adapter.lora])
    for one, half, scaled in zip(*found, strict=True):
        assert (half - one).norm() < 0.02 * one.norm() and (scaled - one).norm() < 0.02 * one.norm()


@pytest.mark.parametrize("rank", [1, 3])
def test_an_adapted_layer_adds_the_product_of_its_matrices_whatever_the_rank(priors, rank):
    """W x + B A x, without a factor (Hu et al. 2022, Eq. 3 with alpha = r)."""
    prior = priors["sd"]
    adapter = prior.adapt(rank)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    adapter.enable(True)
    parts = dict(prior._network.named_modules())
    name = next(name for name in parts if f"{name}.lora_A" in parts and isinstance(parts[name].base_layer, nn.Linear))
    layer, given = parts[name], torch.randn(5, parts[name].in_features, generator=torch.Generator().manual_seed(0))
    first, second = (getattr(layer, which)["distillation"].weight for which in ("lora_A", "lora_B"))
    assert first.shape == (rank, layer.in_features)
    torch.testing.assert_close(layer(given), layer.base_layer(given) + given @ first.T @ second.T, atol=1e-3, rtol=1e-4)
    adapter.enable(False)
    assert torch.equal(layer(given), layer.base_layer(given))


def test_the_camera_reaches_the_adapter_of_a_prior_without_camera(priors, make_cameras):
    prior = priors["sd"]
    adapter = prior.adapt(2)
    torch.nn.init.normal_(adapter.camera.linear_2.weight)
    noisy, timestep = torch.zeros(1, 4, 16, 16), torch.tensor([500])
    cameras = make_cameras([0.0])
    moved = make_cameras([0.0])
    moved.camera_to_world[:] = 1.0
    text = prior.encode_text(["a"])
    one, two, unknown = (
        prior.denoise_adapted(noisy, timestep, Branch(text, camera)) for camera in (cameras, moved, None)
    )
    assert not torch.allclose(one, two, atol=1e-4)
    assert not torch.allclose(one, unknown, atol=1e-4)


@pytest.mark.parametrize("overflows", [True, False])
def test_an_overflow_of_the_network_costs_vsds_adapter_one_step(priors, overflows, monkeypatch):
    """Inside the network, an infinite activation times a gradient of zero is not a number."""
    prior = priors["sd"]
    method, seen = make_method("vsd", prior, guidance_scale=7.5), []
    right = prior._denoise
    factor = torch.tensor([1.0, float("inf") if overflows else 1.0])[:, None, None, None]
    monkeypatch.setattr(prior, "_denoise", lambda noisy, *given: seen.append(1) or right(noisy * factor, *given))
    said = Conditioning(prior.encode_text(["a cat"] * 2), prior.encode_text([""] * 2), None)
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = method(rgb, said, 0.5, torch.Generator().manual_seed(0)).loss
    loss.backward()
    (group,) = method.parameter_groups()
    gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
    assert seen and loss.isfinite() and rgb.grad.isfinite().all() and len(gradients) > 4
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) != overflows


def test_the_adapter_is_told_the_homogeneous_camera_matrix_and_nothing_of_an_unknown_camera(priors, make_cameras):
    prior = priors["sd"]
    adapter = prior.adapt(2)
    noisy, timestep, text = torch.zeros(1, 4, 16, 16), torch.tensor([500]), prior.encode_text(["a"])
    before = prior.denoise_adapted(noisy, timestep, Branch(text, None))
    for parameter in adapter.camera.parameters():
        torch.nn.init.normal_(parameter)
    told = []
    adapter.camera.register_forward_pre_hook(lambda module, arguments: told.append(arguments[0]))
    cameras = make_cameras([0.0])
    cameras.camera_to_world[:] = torch.arange(12.0).view(1, 3, 4)
    assert not torch.allclose(prior.denoise_adapted(noisy, timestep, Branch(text, cameras)), before, atol=1e-4)
    assert told[0].tolist() == [[*range(12), 0, 0, 0, 1]]
    for unknown in (Branch(text, None), Branch(text, cameras, unconditional=True)):
        estimate = prior.denoise_adapted(noisy, timestep, unknown)
        torch.testing.assert_close(estimate, before)
    estimate.square().mean().backward()
    # A distributed run needs a gradient of all parameters.
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in adapter.camera.parameters())


def test_a_prior_for_which_no_layer_fits_says_so(priors):
    with pytest.raises(ValueError, match=r"distillation\.rank is 0; it must be 1 or more"):
        priors["pocket"].adapt(0)


def test_vsd_with_a_real_network_has_a_gradient_and_trains_its_adapter(case, make_cameras):
    prior, _, _, branch = case
    method = make_method("vsd", prior, guidance_scale=7.5)
    said = Conditioning(branch.text, prior.encode_text([""] * len(branch.text)), branch.cameras)
    rgb = torch.rand(
        len(branch.text), 3, prior.resolution, prior.resolution, generator=torch.Generator().manual_seed(0)
    )
    rgb.requires_grad_()
    out = method(rgb, said, 0.5, torch.Generator().manual_seed(0))
    out.loss.backward()
    assert rgb.grad.abs().max() > 0
    (group,) = method.parameter_groups()
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in group["params"])
    assert group["lr"] == (0.01 if isinstance(prior, PocketPrior) else 1e-4)
    assert text_branch(said).cameras is branch.cameras
