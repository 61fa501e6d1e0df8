"""Baseline without empty-space skipping: equal numbers of stratified samples on all rays that meet the ball."""

import torch

from dreamfusion.randomness import uniform
from dreamfusion.scene.nerf.field import check_radius
from dreamfusion.scene.nerf.renderer import Renderer
from dreamfusion.types import RayBundle, RaySamples


class StratifiedRenderer(Renderer):
    """`steps` intervals of equal length along each ray's chord through the bounding ball."""

    def __init__(self, radius: float, steps: int) -> None:
        super().__init__()
        check_radius("renderer.radius", radius)
        if steps < 1:
            raise ValueError(f"renderer.steps is {steps}; a ray needs at least 1")
        self.radius, self.steps, self.most_samples = radius, steps, steps

    def sample(self, rays: RayBundle, generator: torch.Generator | None) -> RaySamples:
        """One sample in each interval, random with a generator, else at the middle; none on rays that miss the ball."""
        device = rays.origins.device
        middle = -(rays.origins * rays.directions).sum(-1)  # (R,) distance to the point nearest the origin
        half_squared = self.radius**2 - rays.origins.square().sum(-1) + middle.square()
        hit = (half_squared > 0) & (middle + half_squared.clamp(min=0).sqrt() > 0)
        index = hit.nonzero()[:, 0]
        half = half_squared[index].sqrt()
        near, far = (middle[index] - half).clamp(min=0), middle[index] + half
        edges = torch.linspace(0, 1, self.steps + 1, device=device)
        t_edges = near[:, None] + (far - near)[:, None] * edges
        t_start, t_end = t_edges[:, :-1].reshape(-1), t_edges[:, 1:].reshape(-1)
        inside = 0.5 if generator is None else uniform(*t_start.shape, generator=generator, device=device)
        ray = index.repeat_interleave(self.steps)
        t = t_start + (t_end - t_start) * inside
        offsets = torch.cat([torch.zeros(1, dtype=torch.long, device=device), torch.cumsum(hit.long() * self.steps, 0)])
        return RaySamples(ray, offsets, t_start, t_end, rays.origins[ray] + rays.directions[ray] * t[:, None])
