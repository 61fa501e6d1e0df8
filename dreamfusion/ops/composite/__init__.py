"""Volume rendering along packed rays: compositing weights from densities, and weighted sums per ray.

Mildenhall et al. 2020 (NeRF), Eq. 3; Poole et al. 2022 (DreamFusion), Eq. 5. Letters: R rays, S samples, C channels.
"""

from collections.abc import Sequence

from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.types import RaySamples, check_shape


def composite(density: Tensor, samples: RaySamples, backend: str | None = None) -> Tensor:
    """Compute the compositing weight of each sample: w_i = T_i (1 - exp(-density_i dt_i)).

    T_i = prod_{j<i} exp(-density_j dt_j) is the transmittance up to the sample. A ray's weights sum to its opacity.

    Args:
        density: (S,) per scene unit, >= 0.
        samples: the intervals.
        backend: "torch", "numba", "triton" or "nerfacc"; None selects the fastest available one.

    Returns:
        (S,), differentiable once with respect to `density`.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if a kernel is given anything but float32.
    """
    check_shape("composite: density", density.shape, (len(samples),))
    chosen = implementation(__name__, "composite", density.device, backend, density)
    weights: Tensor = chosen.composite(density, samples)
    return weights


def accumulate(
    weights: Tensor, values: Sequence[Tensor], samples: RaySamples, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum w_i v_i, w_i t_i and w_i over the samples of each ray; a ray without samples gets 0.

    Args:
        weights: (S,).
        values: several (S, C_n), C in all; concatenating them first would cost one more write and read in each pass.
            Kernels take the transpose of a contiguous tensor without a copy.
        samples: the ray of each sample, and its interval, whose midpoint is t_i.
        backend: as in `composite`.

    Returns:
        Sums of the values (R, C), concatenated; depth (R, 1) in scene units, not divided by opacity; opacity (R, 1).
        Differentiable once with respect to `weights` and `values`.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if a kernel is given anything but float32.
    """
    check_shape("accumulate: weights", weights.shape, (len(samples),))
    for part in values:
        check_shape("accumulate: values", part.shape, (len(samples), None))
    chosen = implementation(__name__, "composite", weights.device, backend, weights, *values)
    sums, depth, opacity = chosen.accumulate(weights, values, samples)
    return sums, depth, opacity
