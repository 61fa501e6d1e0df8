"""The device-dependent operations of the renderer: `hash_encode` and `hash_field`, `march`, `composite`.

Each has a readable torch reference, numba kernels for the CPU and an adapter to CUDA kernels (tiny-cuda-nn, nerfacc),
all with one contract; `backend.py` chooses. Nothing heavy is imported before the first call.
"""

from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.ops.hash_encode import hash_encode
from dreamfusion.ops.hash_field import hash_field
from dreamfusion.ops.hash_grid_layout import HashGridLayout
from dreamfusion.ops.march import march

__all__ = ["HashGridLayout", "accumulate", "composite", "hash_encode", "hash_field", "march"]
