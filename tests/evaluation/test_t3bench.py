"""T3Bench's protocol with judges whose answer is known, and its encoder on small random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.error import GuidanceError, UserError
from dreamfusion.evaluation import t3bench
from dreamfusion.evaluation.image_reward import LONGEST, OFFSET, SCALE, ImageReward
from dreamfusion.evaluation.t3bench import FIELDS, normalized, pictures, quality
from dreamfusion.types import Mesh

WIDTH, PATCH, SIDE = 64, 8, 16


@pytest.fixture
def ball():
    sphere = trimesh.creation.icosphere(subdivisions=2, radius=3.0).apply_translation([5, 0, 0])
    vertices = sphere.vertices.astype(np.float32)
    red_in_front = np.where(sphere.vertices[:, 2:] > 1.5, [1.0, 0, 0], [0, 0, 1.0]).astype(np.float32)
    return Mesh(vertices, sphere.faces.astype(np.int64), colors=red_in_front)


def test_the_mesh_is_centred_with_largest_coordinate_one_and_filmed_over_black_at_five_fields(ball):
    raster = normalized(ball)
    assert np.abs(raster.vertices).max() == pytest.approx(1) and raster.vertices.mean(0) == pytest.approx(0, abs=1e-6)
    seen = pictures(raster, np.array([0, -2.2, 0]), 32)  # T3Bench's -y is our front
    assert seen.shape == (len(FIELDS), 3, 32, 32)
    assert seen[0, :, 16, 16] == pytest.approx([1, 0, 0], abs=0.01)
    assert (seen[0, :, 0, 0] == 0).all()
    covered = (seen.sum(1) > 0).float().mean((1, 2))
    assert (covered.diff() >= 0).all()  # a narrower field shows it larger


def test_the_five_fields_and_the_distance_are_the_published_ones_and_pictures_stand_upright(ball, monkeypatch):
    assert list(FIELDS) == [60, 45, 36, 30, 24]
    places = []

    def recorded(mesh, place, size):
        places.append(place)
        return torch.zeros(5, 3, size, size)

    monkeypatch.setattr(t3bench, "pictures", recorded)
    quality(ball, lambda rgb: rgb[:, 0, 0, 0], size=4)
    assert np.linalg.norm(places, axis=1) == pytest.approx(np.full(162, 2.2))
    x, y, z = ball.vertices.T
    colors = np.stack([(y + 3) / 6, (x - 2) / 6, 0 * z], axis=1).astype(np.float32)  # its middle is at x = 5
    shown = pictures(normalized(replace(ball, colors=colors)), np.array([0, -2.2, 0]), 32)[2].numpy()
    assert shown[0, 11, 16] > 0.54 and shown[0, 20, 16] < 0.46  # red above
    assert shown[1, 16, 20] > 0.54 and shown[1, 16, 11] < 0.46  # green on the right


def test_a_constant_judge_scores_its_constant_and_a_picky_one_is_averaged_over_neighbours(ball):
    assert quality(ball, lambda rgb: torch.full((len(rgb),), 0.25), size=8) == pytest.approx(55)
    red = lambda rgb: rgb[:, 0].mean((1, 2))  # noqa: E731
    best = max(float(red(pictures(normalized(ball), np.array([0, -2.2, 0]), 16)).max()), 0)
    assert 50 < quality(ball, red, size=16) < 50 + 20 * best + 1e-6


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with the published names and small random weights."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "med_config.json").write_text(json.dumps(sizes))
    text = BlipTextModel(BlipTextConfig(**sizes, vocab_size=9, encoder_hidden_size=WIDTH), add_pooling_layer=False)
    image = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + (SIDE // PATCH) ** 2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "blocks.0.norm1.weight": (WIDTH,), "blocks.0.norm1.bias": (WIDTH,),
        "blocks.0.norm2.weight": (WIDTH,), "blocks.0.norm2.bias": (WIDTH,),
        "blocks.0.attn.qkv.weight": (3 * WIDTH, WIDTH), "blocks.0.attn.qkv.bias": (3 * WIDTH,),
        "blocks.0.attn.proj.weight": (WIDTH, WIDTH), "blocks.0.attn.proj.bias": (WIDTH,),
        "blocks.0.mlp.fc1.weight": (96, WIDTH), "blocks.0.mlp.fc1.bias": (96,),
        "blocks.0.mlp.fc2.weight": (WIDTH, 96), "blocks.0.mlp.fc2.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
    }  # fmt: skip
    state = {f"blip.visual_encoder.{name}": torch.randn(shape) * 0.1 for name, shape in image.items()}
    state |= {f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()}
    for place, (rows, columns) in {0: (16, 32), 2: (1, 16)}.items():
        state |= {
            f"mlp.layers.{place}.weight": torch.randn(rows, columns),
            f"mlp.layers.{place}.bias": torch.randn(rows),
        }
    torch.save(state, tmp_path / "ImageReward.pt")
    return tmp_path


def test_rewards_depend_on_picture_and_text_and_not_on_the_batch(folder):
    judge = ImageReward.load(str(folder))
    assert judge.resolution == SIDE
    rgb = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rewards = judge("a cat", rgb)
    assert rewards.shape == (3,) and torch.isfinite(rewards).all()
    torch.testing.assert_close(torch.cat([judge("a cat", one[None]) for one in rgb]), rewards, atol=1e-4, rtol=1e-4)
    assert (judge("a", rgb) - rewards).abs().min() > 1e-5 and rewards.std() > 1e-5
    judge.chain["2"].weight.zero_()
    torch.testing.assert_close(judge("a cat", rgb), ((judge.chain["2"].bias - OFFSET) / SCALE).expand(3))


def test_every_weight_is_that_of_the_file_and_a_long_prompt_is_cut(folder):
    judge, state = ImageReward.load(str(folder)), torch.load(folder / "ImageReward.pt", weights_only=True)
    for part, prefix in ((judge.text, "blip.text_encoder."), (judge.chain, "mlp.layers.")):
        wanted = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        found = part.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    images = {name: value for name, value in state.items() if name.startswith("blip.visual_encoder.")}
    assert sum(value.numel() for value in judge.vision.state_dict().values()) == sum(v.numel() for v in images.values())
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rewards = [judge(" ".join(["cat"] * count), rgb) for count in (LONGEST - 2, LONGEST - 3, 2 * LONGEST)]
    torch.testing.assert_close(rewards[2], rewards[0])  # the first and the last token are the sentence's ends
    assert not torch.allclose(rewards[1], rewards[0], atol=1e-6)


def test_a_folder_without_the_vocabulary_is_named(folder):
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"has no vocab.txt; ImageReward needs ImageReward.pt, med_config.json, vocab"):
        ImageReward.load(str(folder))


@pytest.mark.parametrize(
    ("name", "content"), [("ImageReward.pt", b"cposix\nsystem\n(Vtrue\ntR."), ("med_config.json", b"[")]
)
def test_a_pickled_or_broken_file_is_one_sentence_and_executes_nothing(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(GuidanceError, match="cannot be read as ImageReward: "):
        ImageReward.load(str(folder))


def test_three_rounds_of_averaging_over_the_neighbours_precede_the_maximum(ball):
    """One good position of 162: its reward spreads over the edges of the icosphere, three times."""
    sphere = trimesh.creation.icosphere(subdivisions=2, radius=2.2)
    assert len(sphere.vertices) == 162
    good, seen = 7, []

    def judge(rgb):
        assert rgb.shape == (5, 3, 8, 8)
        seen.append(rgb)
        return torch.tensor([0.0, 0.0, 1.0, -9.0, 0.0]) if len(seen) == good + 1 else torch.zeros(5)

    score = quality(ball, judge, size=8)
    assert len(seen) == 162
    edges = np.eye(162)
    edges[sphere.edges_unique[:, 0], sphere.edges_unique[:, 1]] = 1
    edges[sphere.edges_unique[:, 1], sphere.edges_unique[:, 0]] = 1
    mean = edges / edges.sum(1, keepdims=True)
    assert score == pytest.approx(50 + 20 * (mean @ mean @ mean)[:, good].max())
