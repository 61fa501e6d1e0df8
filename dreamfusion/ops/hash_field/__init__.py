"""Network of the hash-grid field as one operation: encoding, one hidden layer, and the gradient of the first output.

Fused kernels access table and memory less often than `hash_encode` and two matrix products. Letters: S positions,
W = layout.width, H hidden units, O outputs; x position, y its encoding.
"""

import torch
from torch import Tensor

from dreamfusion.ops.backend import choose
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.precision import kernel_precision
from dreamfusion.types import check_shape


def hash_field(
    positions: Tensor,
    table: Tensor,
    hidden_weight: Tensor,
    output_weight: Tensor,
    layout: HashGridLayout,
    with_input_gradient: bool = False,
    backend: str | None = None,
    precision: str = "float32",
) -> tuple[Tensor, Tensor | None]:
    """o = output_weight relu(hidden_weight y(x)), and optionally the input gradient d o_0 / d x.

    Differentiable once with respect to `table` and both weights, through the output and the input gradient: a loss on
    normals trains the scene. The fused kernels take float32 positions that need no gradient; otherwise the composition
    of the single operations runs, which is differentiable with respect to the positions too.

    Args:
        positions: (S, 3) in [0, 1]; values outside are clamped, with input gradient 0 there.
        table: (layout.parameter_count,) float32.
        hidden_weight: (H, W).
        output_weight: (O, H).
        layout: layout of the table.
        with_input_gradient: whether to return the input gradient.
        backend: "numba" for the fused kernels, any other for the composition over that encoding; None selects the
            fastest available one.
        precision: "float32", "bfloat16" or "auto": precision of the hidden layer's products in the fused kernels;
            sums are always float32. "bfloat16" needs AVX512-BF16, "auto" uses bfloat16 where available. The composition
            computes in the precision of its arguments.

    Returns:
        Output (S, O), and input gradient (S, 3) or None. Both may be transposed views.

    Raises:
        ValueError: if a shape does not fit, the backend does not support the device, or the precision is unknown.
        RuntimeError: if bfloat16 is requested for the fused kernels and the processor lacks it.
        TypeError: if backend is "numba" and the positions need a gradient or are not float32.
    """
    check_shape("hash_field: positions", positions.shape, (None, 3))
    check_shape("hash_field: table", table.shape, (layout.parameter_count,))
    check_shape("hash_field: hidden_weight", hidden_weight.shape, (len(hidden_weight), layout.width))
    check_shape("hash_field: output_weight", output_weight.shape, (len(output_weight), len(hidden_weight)))
    chosen = choose("hash_field", positions.device, backend)
    fits = positions.dtype == table.dtype == torch.float32 and not positions.requires_grad
    if chosen == "numba" and fits:
        from dreamfusion.ops.hash_field.cpu import NETWORKS, HashField

        settings = layout, with_input_gradient, NETWORKS[kernel_precision(precision)]
        output, input_gradient = HashField.apply(positions, table, hidden_weight, output_weight, *settings)
        return output, input_gradient
    if backend == "numba":
        raise TypeError(
            f"hash_field: positions are {positions.dtype} and the table is {table.dtype}, gradient of the positions "
            f"{'needed' if positions.requires_grad else 'not needed'}; backend 'numba' takes torch.float32 without it"
        )
    from dreamfusion.ops.hash_field.reference import hash_field as composed

    return composed(positions, table, hidden_weight, output_weight, layout, with_input_gradient, backend)
