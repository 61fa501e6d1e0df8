"""The sketch beside the UNet: silent at first, then able to say where things are."""

import torch

from dreamfusion.pocket.model import PocketModel
from dreamfusion.pocket.sketch import Sketch

TINY = {
    "block_out_channels": [16, 16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def inputs():
    generator = torch.Generator().manual_seed(0)
    noisy, states, camera = (torch.randn(size, generator=generator) for size in ((2, 3, 64, 64), (2, 16, 384), (2, 12)))
    return noisy, torch.tensor([100, 900]), states, torch.ones(2, 16, dtype=torch.bool), camera


def test_a_new_sketch_changes_nothing():
    model = PocketModel.create(TINY, unshuffle=8)
    with_sketch = model(*inputs())
    model.sketch = None
    assert torch.equal(model(*inputs()), with_sketch)


def test_a_sketch_can_be_fitted_to_a_picture_that_depends_on_the_camera_alone():
    torch.manual_seed(0)
    sketch = Sketch(condition=2, channels=(3, 3, 3), coarsest=4, hidden=32, width=32)
    condition = torch.eye(2)
    target = torch.zeros(2, 3, 16, 16)
    target[0, :, :8], target[1, :, :, :8] = 1, 1  # the upper half, the left half
    optimizer = torch.optim.Adam(sketch.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (sketch(condition)[0][0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_both_patch_sizes_survive_saving_and_loading(tmp_path):
    for unshuffle in (4, 8):
        model = PocketModel.create(TINY, unshuffle=unshuffle)
        torch.nn.init.normal_(model.sketch.out[0].weight, std=0.1)
        model.save(tmp_path / str(unshuffle))
        loaded = PocketModel.load(tmp_path / str(unshuffle))
        assert loaded.unshuffle == unshuffle
        torch.testing.assert_close(loaded(*inputs()), model(*inputs()), atol=5e-3, rtol=5e-3)
