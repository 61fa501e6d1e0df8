"""Stage 6: ray marching through the occupied cells of nerfacc's occupancy grid (Müller et al. 2022, App. E)."""

import torch
from nerfacc import OccGridEstimator
from torch import Tensor

from dreamfusion.ops.march import march
from dreamfusion.randomness import uniform
from dreamfusion.scene.nerf.field import Field, check_radius
from dreamfusion.scene.nerf.renderer import Renderer
from dreamfusion.schedule import check_least, check_share
from dreamfusion.types import RayBundle, RaySamples


class Grid(OccGridEstimator):
    """nerfacc's grid, whose updates after the warm-up visit no cell twice.

    It draws cells with repetitions; of two values that are written to one cell, the thread that is last decides, and
    runs with several threads differ.
    """

    def _sample_uniform_and_occupied_cells(self, n: int) -> list[torch.Tensor]:
        found = []
        for cells in super()._sample_uniform_and_occupied_cells(n):
            drawn = torch.zeros(self.cells_per_lvl, dtype=torch.bool, device=cells.device)
            drawn[cells] = True
            found.append(drawn.nonzero()[:, 0])
        return found


class OccupancyRenderer(Renderer):
    """Sample the occupied cells of a grid over [-radius, radius]^3 that is updated from the field during training."""

    def __init__(
        self, radius: float, resolution: int, steps: int, threshold: float, decay: float, update_every: int, warmup: int
    ) -> None:
        """`steps`: number of steps along the diameter.

        A cell is empty if the opacity of one step in it is below the smaller of `threshold` and the mean over all
        cells. The mean keeps scenes of low density everywhere from becoming empty.
        """
        super().__init__()
        check_radius("renderer.radius", radius)
        if steps < 1:
            raise ValueError(f"renderer.steps is {steps}; a ray needs at least 1")
        if min(resolution, update_every) < 1:
            raise ValueError(
                f"renderer.resolution is {resolution}, renderer.update_every {update_every}; both must be at least 1"
            )
        check_share("renderer.threshold", threshold, 0.01)
        check_share("renderer.decay", decay, 0.5)
        check_least("renderer.warmup", warmup, 0, 128)
        self.radius, self.step, self.most_samples = radius, 2 * radius / steps, steps + 1
        self.threshold, self.decay, self.update_every, self.warmup = threshold, decay, update_every, warmup
        box = torch.tensor([-radius] * 3 + [radius] * 3)
        self.grid = Grid(box, resolution=resolution, levels=1)
        # All cells count as occupied until the first update.
        self.grid.binaries.fill_(True)

    @torch.no_grad()
    def update(self, field: Field, step: int) -> None:
        """Update the grid from the field every `update_every` steps: all cells in the warm-up, later a random part."""

        def opacity(positions: Tensor) -> Tensor:
            return 1 - torch.exp(-field.density(positions) * self.step)[:, None]

        self.grid.update_every_n_steps(
            step, opacity, self.threshold, ema_decay=self.decay, warmup_steps=self.warmup, n=self.update_every
        )

    def sample(self, rays: RayBundle, generator: torch.Generator | None) -> RaySamples:
        """Steps of equal length in occupied cells, with one random offset a ray if there is a generator."""
        jitter = None if generator is None else uniform(len(rays), generator=generator, device=rays.origins.device)
        return march(rays, self.grid.binaries[0], self.radius, self.step, jitter)
