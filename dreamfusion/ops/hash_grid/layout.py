"""Layout of the levels of the multiresolution hash grid (Müller et al. 2022, "Instant NGP") in one flat table.

Follows tiny-cuda-nn, including its rounding: a table trained on CUDA can be read on a CPU and vice versa.
C and G below: include/tiny-cuda-nn/common_device.h and .../encodings/grid.h at commit 6ee3546bda61.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PRIMES = (1, 2654435761, 805459861)  # of the spatial hash x*p0 ^ y*p1 ^ z*p2, modulo 2^32 (C:768-791)
_LARGEST_INDEXED_RESOLUTION = 1625  # 0x659: largest with a cube below 2^32; finer levels are hashed (C:858)


@dataclass(frozen=True)
class HashGridLayout:
    """Shape of a hash grid; hashable, so that it can key a cache.

    A level of resolution r (vertices per axis) is dense if r^3 entries fit the table size and hashed otherwise.
    The table is float32, entry-major: feature f of entry i of a level is `table[(offset + i) * features + f]`.

    Args:
        levels: number of resolutions.
        features: numbers per entry; 2, 4 or 8.
        log2_table_size: a level has at most 2^log2_table_size entries.
        base_resolution: resolution of the coarsest level.
        max_resolution: resolution of the finest level; resolutions grow geometrically.

    Raises:
        ValueError: for a number outside its range.
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 17
    base_resolution: int = 16
    max_resolution: int = 2048

    def __post_init__(self) -> None:
        _check("levels", self.levels, 1, 32)
        if self.features not in (2, 4, 8):
            raise ValueError(f"HashGridLayout.features is {self.features}, allowed are 2, 4 and 8")
        _check("log2_table_size", self.log2_table_size, 3, 28)
        _check("base_resolution", self.base_resolution, 2, 2**20)
        _check("max_resolution", self.max_resolution, self.base_resolution, 2**20)

    @property
    def width(self) -> int:
        """Numbers per encoded position, level-major: feature f of level l is column `l * features + f`."""
        return self.levels * self.features

    @property
    def per_level_scale(self) -> float:
        """Growth of the resolution from one level to the next, b in the paper (Eq. 3)."""
        if self.levels == 1:
            return 1.0
        return math.exp(math.log(self.max_resolution / self.base_resolution) / (self.levels - 1))

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """scale_l = 2^(l log2 b) * base - 1, each a float32 number; every step rounds to float32 (C:886-891, G:701).

        Logarithm and power are computed in float64 and rounded, matching a C library's log2f and exp2f to an ulp.
        """
        log2_growth = np.float32(np.log2(np.float64(np.float32(self.per_level_scale))))
        exponents = np.arange(self.levels, dtype=np.float32) * log2_growth
        growth = np.exp2(exponents.astype(np.float64)).astype(np.float32)
        return tuple(float(s) for s in growth * np.float32(self.base_resolution) - np.float32(1))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Vertices per axis: ceil(scale) + 1 (C:893-895)."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries per level: min(r^3 rounded up to a multiple of 8, 2^log2_table_size) (G:704-716)."""
        return tuple(min((r**3 + 7) // 8 * 8, 2**self.log2_table_size) for r in self.resolutions)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level (G:721-728)."""
        return tuple(sum(self.sizes[:level]) for level in range(self.levels))

    @cached_property
    def dense(self) -> tuple[bool, ...]:
        """Whether entries are addressed as x + y r + z r^2 instead of by the hash (C:848-884)."""
        return tuple(
            r <= _LARGEST_INDEXED_RESOLUTION and r**3 <= size
            for r, size in zip(self.resolutions, self.sizes, strict=True)
        )

    @property
    def parameter_count(self) -> int:
        """Numbers in the table (G:730)."""
        return sum(self.sizes) * self.features


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"HashGridLayout.{name} is {value}, allowed are {low} to {high}")
