"""Multiresolution hash encoding of positions: the input layer of the hash-grid field.

Müller et al. 2022, "Instant Neural Graphics Primitives", section 3. Letters: S positions.
"""

from torch import Tensor, float32

from dreamfusion.ops.backend import choose
from dreamfusion.ops.hash_grid.layout import HashGridLayout


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout, backend: str | None = None) -> Tensor:
    """Interpolate every level of the table at the positions.

    Differentiable with respect to `positions` and `table`, and once more through the gradient of `positions`
    (normals are that gradient: `torch.autograd.grad(density, positions, create_graph=True)`).

    Args:
        positions: (S, 3) in [0, 1]; values outside are clamped, with no gradient there.
        table: (layout.parameter_count,) float32.
        layout: layout of the table.
        backend: "torch", "numba" or "tinycudann"; None selects the fastest available one.

    Returns:
        (S, layout.width), level-major. May be a transposed view: the kernels write feature by feature.

    Raises:
        ValueError: if a shape does not fit, or the backend does not support the device.
        TypeError: if a kernel is given anything but float32.
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"hash_encode: positions have shape {tuple(positions.shape)}, expected (any, 3)")
    if table.shape != (layout.parameter_count,):
        raise ValueError(f"hash_encode: table has shape {tuple(table.shape)}, expected ({layout.parameter_count},)")
    chosen = choose("hash_encode", positions.device, backend)
    if chosen == "torch":
        from dreamfusion.ops.hash_grid.reference import hash_encode as run
    elif chosen == "numba":
        from dreamfusion.ops.hash_grid.cpu import hash_encode as run
    else:
        from dreamfusion.ops.hash_grid.cuda import hash_encode as run
    if chosen != "torch" and not positions.dtype == table.dtype == float32:
        raise TypeError(
            f"hash_encode: positions are {positions.dtype} and the table is {table.dtype}, "
            f"backend {chosen!r} takes torch.float32 (backend='torch' takes any float)"
        )
    return run(positions, table, layout)
