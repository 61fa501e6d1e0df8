"""Ray marching: uniform steps along each ray through occupied voxels of the bounding sphere. No gradients.

Instant-NGP (Müller et al. 2022, appendix E.1) without its growing steps. Letters: R rays, S samples, G voxels per axis.
"""

import torch
from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.types import RayBundle, RaySamples, check_shape


@torch.no_grad()
def march(
    rays: RayBundle,
    occupancy: Tensor,
    radius: float,
    step: float,
    jitter: Tensor | None = None,
    backend: str | None = None,
) -> RaySamples:
    """Split the chord of each ray through the sphere |x| < radius into intervals and keep the occupied ones.

    With t_near, t_far the ends of the chord (t_near >= 0: nothing behind the camera), the midpoint of interval i is
    t_i = t_near + (i + jitter) * step, i = 0, 1, ... while t_i < t_far, and the interval extends half a step to
    either side. An interval is kept if the voxel of its midpoint is occupied. Midpoints thus lie in the sphere, all
    intervals have the same length, and their total length equals the chord to within half a step; with uniform jitter,
    exactly on average.

    Args:
        rays: R rays.
        occupancy: (G, G, G) bool, indexed [x, y, z], on the box [-radius, radius]^3 around the sphere.
        radius: radius of the sphere, scene units.
        step: length of an interval, scene units.
        jitter: (R,) in [0, 1), one shift per ray; None is 0.5, the middle of the stratum.
        backend: "torch", "numba", "triton" or "nerfacc"; None selects the fastest available one.

    Raises:
        ValueError: if a shape does not fit or a length is not positive.
    """
    if occupancy.ndim != 3 or len(set(occupancy.shape)) != 1 or occupancy.dtype != torch.bool:
        raise ValueError(
            f"march: occupancy is {occupancy.dtype} of shape {tuple(occupancy.shape)}, expected torch.bool (G, G, G)"
        )
    if not (radius > 0 and step > 0):
        raise ValueError(f"march: radius is {radius} and step is {step}, both must be positive")
    if jitter is None:
        jitter = rays.origins.new_full((len(rays),), 0.5)
    check_shape("march: jitter", jitter.shape, (len(rays),))
    chosen = implementation(__name__, "march", rays.origins.device, backend)
    samples: RaySamples = chosen.march(rays, occupancy, radius, step, jitter)
    return samples
