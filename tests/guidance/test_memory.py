"""Memory of Stable Diffusion 2.1 at its real size, from the sizes of all tensors, which have no values (meta)."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion.guidance.stable_diffusion import StableDiffusionPrior
from dreamfusion.types import Branch, TextEmbedding

GB = 1e9
UNET = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


class Memory(TorchDispatchMode):
    """Bytes of all storages that are alive, and their peak; views share one."""

    def __init__(self, *modules):
        super().__init__()
        self.now = self.peak = 0
        self._alive = set()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._count(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _free(self, key, size):
        self._alive.remove(key)
        self.now -= size


def step_memory(views, vae_dtype, view_chunk):
    """Peak bytes of encoding `views` images, predicting both branches, and the backward pass to the images."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    prior = StableDiffusionPrior.__new__(StableDiffusionPrior)
    with torch.device("meta"):
        prior._network = UNet2DConditionModel(**UNET).to(torch.float16).eval().requires_grad_(False)
        prior._vae = AutoencoderKL(**VAE).to(vae_dtype).eval().requires_grad_(False)
        prior._view_chunk, prior._prediction = view_chunk, "v_prediction"
        prior.alphas_cumprod = torch.empty(1000)
        rgb = torch.empty(views, 3, 512, 512, requires_grad=True)
        text = TextEmbedding(torch.empty(views, 77, 1024), torch.empty(views, 77, dtype=torch.bool), None)
        with Memory(prior._network, prior._vae) as memory:
            latents = prior.encode_image(rgb)
            noisy, timestep = latents.detach(), torch.empty(views, dtype=torch.int64)
            text, empty = prior.denoise(noisy, timestep, [Branch(text, None, None), Branch(text, None, None)])
            latents.backward(text - empty)
    assert rgb.grad.shape == rgb.shape
    return memory.peak


def test_the_accounting_sees_what_is_kept_for_the_backward_pass_and_frees_it():
    with torch.device("meta"), Memory() as memory:
        x = torch.empty(250, requires_grad=True)  # 1000 bytes
        y = x.exp().exp()  # 2000, both kept
        assert memory.now == 3000
        y.sum().backward()
        del y
    assert memory.now == 2000 and memory.peak >= 4000  # x and its gradient


@pytest.mark.parametrize(
    ("views", "vae_dtype", "view_chunk", "limit"),
    [(1, torch.bfloat16, None, 6.0), (2, torch.float32, 1, 7.0)],
)
def test_stable_diffusion_fits_a_card_of_8_gb(views, vae_dtype, view_chunk, limit):
    peak = step_memory(views, vae_dtype, view_chunk) / GB
    assert 3.5 < peak < limit  # its weights alone are 2
