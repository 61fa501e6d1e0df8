"""Stage 4: random cameras and lights around the object (Poole et al. 2022, sec. 3.2 step 1 and App. A.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Cameras

Range = Sequence[float]  # [low, high]

FOV = 40.0  # degrees, vertical: of the pocket prior's training renders; `focal` is 1.374


@dataclass(frozen=True)
class Orbit:
    """Distribution of cameras that look at the origin, and of point lights near the camera."""

    elevation: Range  # degrees
    distance: Range  # scene units
    focal: Range  # focal length over image height; 1.374 is a vertical field of view of 40 degrees
    uniform_area: float  # fraction drawn uniformly in area on the sphere, the rest uniformly in angle
    position_jitter: float  # camera position + U(-j, j)^3, scene units
    look_at_std: float  # look-at point ~ N(0, std^2), scene units
    up_std: float  # up vector + N(0, std^2)
    light_distance: Range  # of the point light from the origin, scene units
    views: int  # cameras a step
    size: ScheduleLike  # pixels a side; a number, or a schedule over the run's progress

    def __post_init__(self) -> None:
        for name in ("elevation", "distance", "focal", "light_distance"):
            given = getattr(self, name)
            bounds = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
            numbers = all(isinstance(bound, int | float) for bound in bounds)
            if not numbers or len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"camera.{name} is {bounds}; expected [low, high], low not above high")
        if not 0 <= self.uniform_area <= 1:
            raise ValueError(f"camera.uniform_area is {self.uniform_area}, expected a fraction in [0, 1]")
        if self.elevation[0] < -90 or self.elevation[1] > 90:
            raise ValueError(f"camera.elevation is {list(self.elevation)}; allowed are -90 to 90 degrees")
        if self.distance[0] <= 0 or self.focal[0] <= 0:
            raise ValueError(
                f"camera.distance {list(self.distance)} and camera.focal {list(self.focal)} must be above 0"
            )
        if self.views < 1:
            raise ValueError(f"camera.views is {self.views}; a step needs at least 1 camera")
        if schedule(self.size).lowest < 1:
            raise ValueError(f"camera.size is {self.size}; a view needs at least 1 pixel a side: type camera.size=64")

    def sample(self, progress: float, generator: torch.Generator) -> Cameras:
        """Draw the cameras of one step, azimuths stratified over the circle, with one light each."""
        batch, size = self.views, round(schedule(self.size)(progress))

        def uniform(bounds: Range) -> Tensor:
            return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(batch, generator=generator)

        azimuth = (torch.arange(batch) + torch.rand(batch, generator=generator)) * (360 / batch)
        azimuth = (azimuth + 360 * torch.rand(1, generator=generator)) % 360
        low, high = (math.sin(math.radians(e)) for e in self.elevation)
        by_area = torch.rad2deg(torch.asin(uniform((low, high)).clamp(-1, 1)))
        elevation = torch.where(
            torch.rand(batch, generator=generator) < self.uniform_area, by_area, uniform(self.elevation)
        )
        jitter = (2 * torch.rand(batch, 3, generator=generator) - 1) * self.position_jitter
        position = spherical(azimuth, elevation, uniform(self.distance)) + jitter
        look_at = torch.randn(batch, 3, generator=generator) * self.look_at_std
        up = torch.tensor([0.0, 1.0, 0.0]) + torch.randn(batch, 3, generator=generator) * self.up_std
        direction = torch.nn.functional.normalize(position + torch.randn(batch, 3, generator=generator), dim=-1)
        light = direction * uniform(self.light_distance)[:, None]
        return look_from(position, look_at, up, focal_to_fov(uniform(self.focal)), light, size, size)

    def view(self, azimuth: Tensor, elevation: float | Tensor, height: int, width: int) -> Cameras:
        """Cameras at given azimuths (B,) and elevations (one, or (B,)), in degrees: for previews and turntables.

        Distance and focal length are the middle of their ranges. The light is above the camera's right shoulder, at the
        same relative position for each.
        """
        middle = torch.full_like(azimuth, sum(self.distance) / 2)
        above = torch.as_tensor(elevation, dtype=azimuth.dtype).expand_as(azimuth)
        position = spherical(azimuth, above, middle)
        light = spherical(azimuth + 30, (above + 35).clamp(max=89), middle)
        fov = focal_to_fov(torch.full_like(azimuth, sum(self.focal) / 2))
        up = torch.tensor([0.0, 1.0, 0.0]).expand(len(azimuth), 3)
        return look_from(position, torch.zeros_like(position), up, fov, light, height, width)


def look_from(
    position: Tensor, look_at: Tensor, up: Tensor, fov: Tensor, light: Tensor, height: int, width: int
) -> Cameras:
    """Cameras at `position` (B, 3) that look at `look_at` (B, 3); angles are computed from the position."""
    back = torch.nn.functional.normalize(position - look_at, dim=-1)
    # Seen from straight above, up and back are parallel: use -z (away from the front) as up.
    parallel = torch.linalg.vector_norm(torch.linalg.cross(up, back, dim=-1), dim=-1, keepdim=True) < 1e-4
    up = torch.where(parallel, torch.tensor([0.0, 0.0, -1.0]).expand_as(up), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back, dim=-1), dim=-1)
    true_up = torch.linalg.cross(back, right, dim=-1)
    distance = torch.linalg.vector_norm(position, dim=-1)
    return Cameras(
        camera_to_world=torch.stack([right, true_up, back, position], dim=-1),
        fov=fov,
        azimuth=torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) % 360,
        elevation=torch.rad2deg(torch.asin((position[:, 1] / distance).clamp(-1, 1))),
        distance=distance,
        light=light,
        height=height,
        width=width,
    )


def spherical(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """(...) degrees, degrees, scene units -> positions (..., 3)."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    return distance[..., None] * torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)


def focal_to_fov(focal: Tensor) -> Tensor:
    """Focal length over image height -> vertical field of view in degrees."""
    return torch.rad2deg(2 * torch.atan(0.5 / focal))
