"""The MVDream adapter on small random networks of diffusers' classes."""

import copy

import numpy as np
import pytest
import torch
from options import noises, option
from pipelines import save_mvdream, save_sd
from torch import nn

from dreamfusion.camera.orbit import look_from, spherical
from dreamfusion.error import GuidanceError
from dreamfusion.guidance.mvdream import camera_code
from dreamfusion.types import Branch

VIEWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_mvdream(tmp_path_factory.mktemp("mvdream"))


@pytest.fixture(scope="module")
def prior(folder):
    return option("guidance/mvdream", model=str(folder), checkpoint=None, resolution=32)


def views_at(azimuth, elevation, distance=3.0):
    azimuth, elevation = torch.tensor(azimuth), torch.tensor(elevation)
    position = spherical(azimuth, elevation, torch.full_like(azimuth, distance))
    up = torch.tensor([0.0, 1.0, 0.0]).expand(len(azimuth), 3)
    return look_from(position, torch.zeros_like(position), up, torch.full_like(azimuth, 40.0), position, 8, 8)


@pytest.fixture
def batch(prior):
    """Two groups of four views."""
    noisy = torch.randn(2 * VIEWS, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    cameras = views_at([10.0, 100.0, 190.0, 280.0, 50.0, 140.0, 230.0, 320.0], [5.0] * 4 + [25.0] * 4)
    text = prior.encode_text(["a cat"] * 4 + ["a dog"] * 4)
    return noisy, torch.tensor([300] * 4 + [700] * 4), Branch(text, cameras)


def published_matrix(azimuth, elevation):
    """Camera of MVDream-threestudio: z up, azimuth 0 at +x; columns right, up, back, position at distance 1."""
    a, e = np.radians([azimuth, elevation])
    position = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross(-position, [0, 0, 1])
    right /= np.linalg.norm(right)
    up = np.cross(right, -position)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, up, position, position], axis=1)
    return matrix.flatten()


def test_a_camera_is_its_matrix_as_in_training_at_distance_one():
    azimuth, elevation = [0.0, 33.0, 90.0, 215.0], [0.0, 20.0, -10.0, 30.0]
    expected = np.stack([published_matrix(a, e) for a, e in zip(azimuth, elevation, strict=True)])
    code = camera_code(views_at(azimuth, elevation, distance=2.7))
    torch.testing.assert_close(code, torch.from_numpy(expected).float(), atol=1e-6, rtol=1e-5)


class Joined(nn.Module):
    """Self-attention over the tokens of four views, written out."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, **unused):
        b, tokens, width = hidden_states.shape
        x = hidden_states.reshape(b // VIEWS, VIEWS * tokens, width)
        heads = self.attention.heads
        q, k, v = (
            layer(x).reshape(len(x), -1, heads, width // heads).transpose(1, 2)
            for layer in (self.attention.to_q, self.attention.to_k, self.attention.to_v)
        )
        chances = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        return self.attention.to_out[0]((chances @ v).transpose(1, 2).reshape(x.shape)).reshape(b, tokens, width)


@torch.no_grad()
def test_the_noise_is_that_of_joint_attention_and_a_camera_embedding_written_out(prior, batch):
    from diffusers.models.attention import BasicTransformerBlock

    noisy, timestep, branch = batch
    (noise,) = noises(prior, noisy, timestep, [branch])
    network = copy.deepcopy(prior._network)
    first, second = network.class_embedding.linear_1, network.class_embedding.linear_2
    cameras = second(nn.functional.silu(first(camera_code(branch.cameras))))
    network.time_embedding.register_forward_hook(lambda module, arguments, output: output + cameras)
    network.class_embedding = None
    for block in [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]:
        block.attn1 = Joined(block.attn1)
    expected = network(noisy, timestep, encoder_hidden_states=branch.text.states).sample
    torch.testing.assert_close(noise, expected, atol=1e-5, rtol=1e-4)


def test_views_of_a_group_depend_on_each_other_and_not_on_another_group(prior, batch):
    noisy, timestep, branch = batch
    changed = noisy.clone()
    changed[3] += 1
    (before,), (after,) = (prior.denoise(z, timestep, [branch]) for z in (noisy, changed))
    difference = (after - before).flatten(1).abs().amax(1)
    assert (difference[:3] > 1e-6).all()
    torch.testing.assert_close(after[4:], before[4:])


def test_branches_of_one_batch_are_independent_and_the_unconditional_one_has_the_cameras(prior, batch):
    noisy, timestep, branch = batch
    null = Branch(prior.encode_text([""] * 8), branch.cameras, unconditional=True)
    both = prior.denoise(noisy, timestep, [branch, null])
    alone = [prior.denoise(noisy, timestep, [one])[0] for one in (branch, null)]
    torch.testing.assert_close(torch.stack(both), torch.stack(alone), atol=1e-5, rtol=1e-4)
    turned = Branch(null.text, views_at([0.0] * 8, [0.0] * 8), unconditional=True)
    assert (prior.denoise(noisy, timestep, [turned])[0] - both[1]).abs().max() > 1e-5


def test_views_without_cameras_or_an_incomplete_group_are_refused(prior, batch):
    noisy, timestep, branch = batch
    three = Branch(prior.encode_text(["a cat"] * 3), views_at([0.0, 90.0, 180.0], [0.0] * 3))
    for count, one in ((8, Branch(branch.text)), (3, three)):
        with pytest.raises(ValueError, match="mvdream predicts groups of 4 views, each with its camera"):
            prior.denoise(noisy[:count], timestep[:count], [one])


def original_names(state):
    """The names of the small U-Net (two levels, one layer each) in the original code."""
    places = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0", "class_embedding.linear_2": "camera_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0", "down_blocks.1.attentions.0": "input_blocks.3.1",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.attentions.0": "output_blocks.0.1",
        "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.attentions.1": "output_blocks.1.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.resnets.1": "output_blocks.3.0",
    }  # fmt: skip
    inside = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    renamed = {}
    for name, value in state.items():
        place = next(one for one in places if name.startswith(f"{one}."))
        rest = name.removeprefix(f"{place}.")
        layer, _, end = rest.rpartition(".")
        rest = f"{inside[layer]}.{end}" if ".resnets." in place else rest
        renamed[f"model.diffusion_model.{places[place]}.{rest}"] = value
    return renamed


def test_an_original_checkpoint_replaces_the_u_net_of_stable_diffusion(prior, batch, tmp_path, cached_offline):
    state = original_names(prior._network.state_dict())
    torch.save(state | {"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, tmp_path / "4view.pt")
    base = save_sd(tmp_path / "sd")
    settings = {"model": str(base), "resolution": 32}
    loaded = option("guidance/mvdream", checkpoint=str(tmp_path / "4view.pt"), **settings)
    torch.testing.assert_close(loaded.denoise(*batch[:2], [batch[2]]), prior.denoise(*batch[:2], [batch[2]]))
    with pytest.raises(GuidanceError, match=r"has no camera embedding; type guidance.checkpoint=MVDream/MVDream/sd-v2"):
        option("guidance/mvdream", checkpoint=None, **settings)
    with pytest.raises(GuidanceError, match=r"guidance.checkpoint=/no/such.pt: no such file; type the path of"):
        option("guidance/mvdream", checkpoint="/no/such.pt", **settings)
    cached_offline("MVDream/MVDream", tmp_path)  # the file keeps its name in the cache
    option("guidance/mvdream", checkpoint="MVDream/MVDream/4view.pt", **settings)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(GuidanceError, match=r"^the checkpoint is not MVDream's: it has no label_emb"):
        option("guidance/mvdream", checkpoint=str(tmp_path / "other.pt"), **settings)
    for contents in (b"no weights", (tmp_path / "other.pt").read_bytes()[:300]):
        (tmp_path / "damaged.pt").write_bytes(contents)
        with pytest.raises(GuidanceError, match=r"guidance.checkpoint=\S*damaged.pt cannot be read: "):
            option("guidance/mvdream", checkpoint=str(tmp_path / "damaged.pt"), **settings)
