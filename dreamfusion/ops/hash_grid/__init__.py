"""Multiresolution hash encoding of positions: the input layer of the hash-grid field.

Müller et al. 2022, "Instant Neural Graphics Primitives", section 3. Letters: S positions.
"""

from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.types import check_shape


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout, backend: str | None = None) -> Tensor:
    """Interpolate every level of the table at the positions.

    Differentiable with respect to `positions` and `table`, and once more through the gradient of `positions`
    (normals are that gradient: `torch.autograd.grad(density, positions, create_graph=True)`).

    Args:
        positions: (S, 3) in [0, 1]; values outside are clamped, with no gradient there.
        table: (layout.parameter_count,) float32.
        layout: layout of the table.
        backend: "torch", "numba", "triton" or "tinycudann"; None selects the fastest available one.

    Returns:
        (S, layout.width), level-major. May be a transposed view: the kernels write feature by feature.

    Raises:
        ValueError: if a shape does not fit, or the backend does not support the device.
        TypeError: if a kernel is given anything but float32.
    """
    check_shape("hash_encode: positions", positions.shape, (None, 3))
    check_shape("hash_encode: table", table.shape, (layout.parameter_count,))
    chosen = implementation(__name__, "hash_encode", positions.device, backend, positions, table)
    encoded: Tensor = chosen.hash_encode(positions, table, layout)
    return encoded
