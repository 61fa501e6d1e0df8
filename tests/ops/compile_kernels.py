"""Compile every Triton kernel to machine code for GPUs that are not here; prints a line for each.

    python tests/ops/compile_kernels.py cuda:80 hip:gfx942 cuda:90,hip:gfx1100

Targets joined by commas take the kernels in turn. The operations run on a CPU with small inputs. Each launch is only
compiled, with the arguments, types and options that a GPU gets; ptxas and lld come with triton. Not in pytest:
interpreter and compiler exclude each other in a process.
"""

import sys
from functools import partial
from itertools import cycle

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from dreamfusion.ops.composite import triton as composite
from dreamfusion.ops.feature_volume import triton as feature_volume
from dreamfusion.ops.hash_grid import triton as hash_grid
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.march import triton as march
from dreamfusion.ops.rasterize import triton as rasterize
from dreamfusion.ops.splat import Screen
from dreamfusion.ops.splat import triton as splat
from dreamfusion.types import RayBundle


class Absent:
    """Triton's driver of a GPU that is not here."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch  # kernels are kept per device

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def main(*groups):
    for group in groups:
        for module in (hash_grid, march, composite, feature_volume, rasterize, splat):
            module.launch = partial(compile_launch, cycle(group.split(",")))
        run_everything()


def compile_launch(targets, kernel, grid, *given, **settings):
    target = next(targets)
    backend, arch = target.split(":")
    wave = 64 if arch.startswith("gfx9") else 32
    driver.set_active(Absent(GPUTarget("cuda", int(arch), 32) if backend == "cuda" else GPUTarget("hip", arch, wave)))
    compiled = kernel.warmup(*given, grid=grid, **settings)
    code = compiled.asm.get("cubin") or compiled.asm["hsaco"]
    chosen = {key: value for key, value in settings.items() if isinstance(value, bool)}
    print(target, kernel.fn.__module__.split(".")[-2], kernel.fn.__name__, chosen, len(code), "bytes", flush=True)


def run_everything():
    """Call every operation and derivative; the values are uninitialised memory."""
    layout = HashGridLayout()
    x, table = torch.rand(64, 3, requires_grad=True), torch.zeros(layout.parameter_count, requires_grad=True)
    encoded = hash_grid.hash_encode(x, table, layout)
    along = torch.zeros(layout.width, requires_grad=True)
    slope, _ = torch.autograd.grad((encoded * along).sum(), (x, table), create_graph=True)
    slope.sum().backward()
    rays = RayBundle(torch.zeros(8, 3), torch.zeros(8, 3))
    samples = march.march(rays, torch.ones(4, 4, 4, dtype=torch.bool), 1.0, 0.1, torch.zeros(8))
    weights = composite.composite(torch.zeros(len(samples), requires_grad=True), samples)
    values = torch.zeros(len(samples), 3, requires_grad=True)
    sums, *_ = composite.accumulate(weights, [values, values], samples)
    sums.sum().backward()
    volume = torch.zeros(2, 4, 4, 4, 17, requires_grad=True)
    feature_volume.render_feature_volume(volume, torch.zeros(2, 8, 4, 3), 1).sum().backward()
    rasterize.visible(torch.ones(2, 5, 3), torch.zeros(3, 3, dtype=torch.int64), 24, 40)
    means, conics = torch.ones(2, 3, 2, requires_grad=True), torch.tensor([1.0, 0.0, 1.0]).expand(2, 3, 3)
    screen = Screen(means, conics, torch.ones(2, 3), torch.ones(2, 3))
    splat.splat(screen, torch.ones(2, 3), torch.zeros(2, 3, 4), 24, 40)[1].sum().backward()


if __name__ == "__main__":
    main(*sys.argv[1:])
