"""Volume rendering of a feature grid: occlusion-aware feature maps along rays.

Voxels hold H heads of a density and F features. Letters: G volumes, N voxels a side, R rays, D samples a ray.
"""

from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.types import check_shape

_NAME = "render_feature_volume"


def render_feature_volume(volume: Tensor, points: Tensor, heads: int, backend: str | None = None) -> Tensor:
    """Composite each head's features along rays, front to back, with weights as in `composite`.

    The optical depth of a sample is softplus of the interpolated density, which includes the constant interval length.
    Outside the volume features and optical depth are 0.

    Args:
        volume: (G, N, N, N, H (1 + F)), indexed z, y, x; the first channel of each head is its density.
        points: (G, R, D, 3), x, y, z in [-1, 1] inside the volume, near samples first.
        heads: H.
        backend: "torch", "numba" or "triton"; None selects the fastest available one.

    Returns:
        (G, R, H (2 + F)): for each head the opacity, the mean depth as a fraction of the ray (0 on empty rays) and the
        features; differentiable once with respect to `volume`.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if the kernel is given anything but float32.
    """
    sides = volume.shape[1:4]
    if volume.ndim != 5 or len(set(sides)) > 1 or heads < 1 or volume.shape[4] % heads:
        raise ValueError(f"{_NAME}: volume has shape {tuple(volume.shape)}, expected (G, N, N, N, {heads} (1 + F))")
    check_shape(f"{_NAME}: points", points.shape, (len(volume), None, None, 3))
    chosen = implementation(__name__, _NAME, volume.device, backend, volume, points)
    seen: Tensor = chosen.render_feature_volume(volume, points, heads)
    return seen
