"""Hash encodings in plain torch, following other projects: what a user without our kernels would run on a CPU.

Reimplemented from the published formulations, not copied; both have correct derivatives of any order.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.ops.hash_grid.layout import PRIMES, HashGridLayout
from dreamfusion.ops.hash_grid.reference import hash_encode as reference
from dreamfusion.scene.nerf.hashgrid import HashGridField

Encode = Callable[[Tensor, Tensor, HashGridLayout], Tensor]


def vectorised(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """tiny-cuda-nn's scheme for all levels in one batch: (S, L, 8) indices into the whole table, one gather."""
    scale = positions.new_tensor(layout.scales)[:, None]
    scaled = positions[:, None, :] * scale + 0.5  # (S, L, 3)
    floor = scaled.detach().floor()
    fraction = (scaled - floor)[:, :, None, :]
    steps = torch.tensor(list(product((0, 1), repeat=3)))  # (8, 3)
    vertex = floor.long()[:, :, None, :] + steps  # (S, L, 8, 3)
    x, y, z = vertex.unbind(-1)
    resolution, size = torch.tensor(layout.resolutions)[:, None], torch.tensor(layout.sizes)[:, None]
    in_order = x + y * resolution + z * resolution**2
    hashed = x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]
    index = torch.where(torch.tensor(layout.dense)[:, None], in_order, hashed) % size
    index = index + torch.tensor(layout.offsets)[:, None]
    weight = torch.where(steps.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)  # (S, L, 8, 1)
    entries = table.view(-1, layout.features).index_select(0, index.reshape(-1))
    return (weight * entries.view(*index.shape, layout.features)).sum(2).flatten(1)


def nerfstudio_style(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """nerfstudio's encoding without tiny-cuda-nn: every level hashed into its own full table, corners by floor and
    ceil, one look-up per corner, then pairwise interpolation. Not the same function of the table as our encoding.
    """
    size = 2**layout.log2_table_size
    growth = positions.new_tensor(layout.per_level_scale)
    resolution = (layout.base_resolution * growth ** torch.arange(layout.levels)).floor()
    scaled = positions[:, None, :] * resolution[:, None]  # (S, L, 3)
    upper, lower = scaled.detach().ceil().int(), scaled.detach().floor().int()
    x, y, z = (scaled - lower)[..., None].unbind(-2)  # (S, L, 1) each
    first, primes = torch.arange(layout.levels) * size, torch.tensor(PRIMES)
    entries = table.view(-1, layout.features)

    def look_up(*of: Tensor) -> Tensor:
        a, b, c = (torch.stack([corner[..., d] for d, corner in enumerate(of)], dim=-1) * primes).unbind(-1)
        return entries[(a ^ b ^ c) % size + first]  # (S, L, F)

    along_x = [
        look_up(upper, b, c) * x + look_up(lower, b, c) * (1 - x) for c in (upper, lower) for b in (upper, lower)
    ]
    along_y = [along_x[i] * y + along_x[i + 1] * (1 - y) for i in (0, 2)]
    return (along_y[0] * z + along_y[1] * (1 - z)).flatten(1)


ENCODINGS: dict[str, Encode] = {
    "torch reference": reference,
    "vectorised torch": vectorised,
    "nerfstudio-style": nerfstudio_style,
}


def parameter_count(name: str, layout: HashGridLayout) -> int:
    """Number of parameters in the table of an encoding."""
    full = layout.levels * 2**layout.log2_table_size * layout.features
    return full if name == "nerfstudio-style" else layout.parameter_count


class BaselineField(HashGridField):
    """The hash-grid field with one of `ENCODINGS`; normals by torch's double backward."""

    def __init__(self, name: str, **settings: float | int | str) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.encode = ENCODINGS[name]
        self.table = nn.Parameter(torch.empty(parameter_count(name, self.layout)).uniform_(-1e-4, 1e-4))

    def _network(self, positions: Tensor, output_weight: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
        x = (positions / (2 * self.radius) + 0.5).requires_grad_(with_slope)
        encoded = self.encode(x, self.table, self.layout)
        output = F.linear(torch.relu(F.linear(encoded, self.hidden_weight)), output_weight)
        if not with_slope:
            return output, None
        (input_gradient,) = torch.autograd.grad(output[:, 0].sum(), x, create_graph=True)
        return output, input_gradient
