"""Ray marching on CUDA by `nerfacc.traverse_grids` (0.5.3).

Written from nerfacc's source; agrees with the reference on an H200 (torch 2.11.0+cu130).
"""

from torch import Tensor

from dreamfusion.ops.constants import constant
from dreamfusion.ops.march.reference import pack, sphere_chords
from dreamfusion.types import RayBundle, RaySamples


def march(rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor) -> RaySamples:
    """See `dreamfusion.ops.march.march`.

    nerfacc keeps the same intervals (midpoint in an occupied voxel, before the far plane), but accumulates the steps.
    Only the step numbers are taken from it, so that rounding errors do not accumulate along the ray.
    """
    import nerfacc

    near, far = sphere_chords(rays.origins, rays.directions, radius)
    first = near + (jitter - 0.5) * step  # where interval 0 starts
    box = constant((*[-radius] * 3, *[radius] * 3), rays.origins.device)[None]
    intervals, samples, _ = nerfacc.traverse_grids(
        rays.origins,
        rays.directions,
        occupancy[None],
        box,
        near_planes=first,
        far_planes=far,
        step_size=step,
        cone_angle=0.0,
    )
    ray = samples.ray_indices.long()
    index = ((intervals.vals[intervals.is_left] - first[ray]) / step).round().long()
    return pack(rays, ray, index, near, step, jitter)
