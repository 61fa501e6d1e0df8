"""Hash encoding on CUDA: our flat table as the parameters of a `tinycudann.Encoding`.

Written from bindings/torch/tinycudann/modules.py of tiny-cuda-nn (commit 07bacc57). Not proved on a GPU: the
one build that was tried, without networks, ended with signal 11 in its check (docs/gpu.md).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from dreamfusion.ops.hash_grid.layout import HashGridLayout


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(S, 3), (P,) -> (S, layout.width) float32; first derivatives, and the second of the position gradient."""
    if len(positions) == 0:  # tiny-cuda-nn rejects empty batches; stay connected to the positions and the table
        return (positions.sum(-1, keepdim=True) * table[:1]).expand(0, layout.width)
    with torch.cuda.device(positions.device):
        # `Module.forward` reads `self.params`: the functional call substitutes our tensor, with its gradient.
        encoding = _encoding(layout, positions.device)
        encoded: Tensor = torch.func.functional_call(encoding, {"params": table}, (positions.clamp(0, 1),))
    return encoded


def encoding_config(layout: HashGridLayout) -> dict[str, Any]:
    """Convert the layout to tiny-cuda-nn's configuration (its DOCUMENTATION.md, "Grid")."""
    return {
        "otype": "HashGrid",
        "n_levels": layout.levels,
        "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_table_size,
        "base_resolution": layout.base_resolution,
        "per_level_scale": layout.per_level_scale,
        "interpolation": "Linear",
    }


@cache
def _encoding(layout: HashGridLayout, device: torch.device) -> torch.nn.Module:
    """One encoding per layout and device, without parameters of its own.

    Raises:
        RuntimeError: if the installed tiny-cuda-nn has another parameter count than `HashGridLayout`.
    """
    import tinycudann

    encoding: torch.nn.Module = tinycudann.Encoding(3, encoding_config(layout), dtype=torch.float32)
    count = encoding.get_parameter("params").numel()
    if count != layout.parameter_count:
        raise RuntimeError(
            f"tinycudann lays {layout} out in {count} parameters on {device}, expected {layout.parameter_count}; "
            "type ops=torch to run without it"
        )
    encoding.params = torch.nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # replaced by ours
    return encoding
